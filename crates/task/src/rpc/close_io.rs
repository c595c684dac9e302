//! CloseIO: closes the standard input of a process.

use containerd_shim_protos::api::{CloseIORequest, Empty};

use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) async fn close_io(service: &Service, request: CloseIORequest) -> Result<Empty> {
    let process = service.process(&request.id, &request.exec_id)?;
    if request.stdin {
        match process {
            Process::Init(container) => container.close_stdin().await,
            Process::Exec(exec) => exec.close_stdin().await,
        }?;
    }
    Ok(Empty::new())
}
