//! Update: a container that runs has other limits.

use containerd_shim_protos::api::{Empty, UpdateTaskRequest};

use crate::convert;
use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn update(service: &Service, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
    let container = service.container(&request.id)?;
    let resources = convert::json("LinuxResources", "the resources to set", &request.resources)?;
    container.update(resources).await.map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
