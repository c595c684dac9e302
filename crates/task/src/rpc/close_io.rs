//! CloseIO: there will be no more input.

use containerd_shim_protos::api::{CloseIORequest, Empty};

use crate::error::from_container;
use crate::service::{Process, Service};

pub(crate) async fn close_io(service: &Service, request: CloseIORequest) -> ttrpc::Result<Empty> {
    let process = service.process(&request.id, &request.exec_id)?;
    if request.stdin {
        match process {
            Process::Init(container) => container.close_stdin().await,
            Process::Exec(exec) => exec.close_stdin().await,
        }
        .map_err(|error| from_container(&error))?;
    }
    Ok(Empty::new())
}
