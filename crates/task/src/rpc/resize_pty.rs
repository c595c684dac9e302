//! ResizePty: a terminal has another size.

use containerd_shim_protos::api::{Empty, ResizePtyRequest};

use crate::error::from_container;
use crate::service::{Process, Service};

pub(crate) async fn resize_pty(
    service: &Service,
    request: ResizePtyRequest,
) -> ttrpc::Result<Empty> {
    let (columns, rows) = (request.width, request.height);
    match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.resize(columns, rows).await,
        Process::Exec(exec) => exec.resize(columns, rows).await,
    }
    .map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
