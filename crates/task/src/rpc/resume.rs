//! Resume: thaws all processes of a paused container.

use containerd_shim_protos::api::{Empty, ResumeRequest};

use crate::error::Result;
use crate::service::Service;

pub(crate) async fn resume(service: &Service, request: ResumeRequest) -> Result<Empty> {
    let container = service.container(&request.id)?;
    container.resume().await?;
    Ok(Empty::new())
}
