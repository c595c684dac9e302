//! Kill: sends a signal to a process. While the container is being created, an ending signal
//! cancels its Create.

use containerd_shim_protos::api::{Empty, KillRequest};

use crate::error::Result;
use crate::service::{Process, Service};

/// SIGHUP, SIGINT, SIGQUIT, SIGKILL and SIGTERM: clients send these to end a process.
const ENDING: [u32; 5] = [1, 2, 3, 9, 15];

pub(crate) async fn kill(service: &Service, request: KillRequest) -> Result<Empty> {
    if request.exec_id.is_empty() && ENDING.contains(&request.signal) {
        // The process may not exist yet: a large module takes minutes to compile.
        if service.registry().cancel(&request.id) {
            return Ok(Empty::new());
        }
        // A Create that has settled registers its container at once.
        service.registry().settled(&request.id).await;
    }
    match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.kill(request.signal, request.all).await,
        Process::Exec(exec) => exec.kill(request.signal).await,
    }?;
    Ok(Empty::new())
}
