//! Pause: all processes of a container are frozen.

use containerd_shim_protos::api::{Empty, PauseRequest};

use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn pause(service: &Service, request: PauseRequest) -> ttrpc::Result<Empty> {
    let container = service.container(&request.id)?;
    container.pause().await.map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
