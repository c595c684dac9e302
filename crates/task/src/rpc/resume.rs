//! Resume: the processes of a paused container go on.

use containerd_shim_protos::api::{Empty, ResumeRequest};

use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn resume(service: &Service, request: ResumeRequest) -> ttrpc::Result<Empty> {
    let container = service.container(&request.id)?;
    container.resume().await.map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
