//! Update: a container that runs has other limits.

use containerd_shim_protos::api::{Empty, UpdateTaskRequest};
use ttrpc::Code;

use crate::error::{from_container, status};
use crate::service::Service;

pub(crate) async fn update(service: &Service, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
    let container = service.container(&request.id)?;
    let resources = serde_json::from_slice(&request.resources.value).map_err(|error| {
        status(Code::INVALID_ARGUMENT, format!("the resources to set: {error}"))
    })?;
    container.update(resources).await.map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
