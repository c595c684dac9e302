//! ResizePty: sets the size of a terminal.

use containerd_shim_protos::api::{Empty, ResizePtyRequest};

use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) async fn resize_pty(service: &Service, request: ResizePtyRequest) -> Result<Empty> {
    let (columns, rows) = (request.width, request.height);
    match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.resize(columns, rows).await,
        Process::Exec(exec) => exec.resize(columns, rows).await,
    }?;
    Ok(Empty::new())
}
