//! Pause: freezes all processes of a container.

use containerd_shim_protos::api::{Empty, PauseRequest};

use crate::error::Result;
use crate::service::Service;

pub(crate) async fn pause(service: &Service, request: PauseRequest) -> Result<Empty> {
    let container = service.container(&request.id)?;
    container.pause().await?;
    Ok(Empty::new())
}
