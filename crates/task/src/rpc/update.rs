//! Update: changes the resource limits of a container.

use containerd_shim_protos::api::{Empty, UpdateTaskRequest};

use crate::convert;
use crate::error::Result;
use crate::service::Service;

pub(crate) async fn update(service: &Service, request: UpdateTaskRequest) -> Result<Empty> {
    let container = service.container(&request.id)?;
    let resources = convert::json("LinuxResources", "resources to set", &request.resources)?;
    container.update(resources).await?;
    Ok(Empty::new())
}
