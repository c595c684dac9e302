//! Kill: a signal to a process.

use containerd_shim_protos::api::{Empty, KillRequest};

use crate::error::from_container;
use crate::service::{Process, Service};

pub(crate) async fn kill(service: &Service, request: KillRequest) -> ttrpc::Result<Empty> {
    match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.kill(request.signal, request.all).await,
        Process::Exec(exec) => exec.kill(request.signal).await,
    }
    .map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
