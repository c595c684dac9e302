//! Kill: a signal to a process; to one whose container is still being created, the end of that Create.

use containerd_shim_protos::api::{Empty, KillRequest};

use crate::error::from_container;
use crate::service::{Process, Service};

/// The signals that end a process which does not handle them and that clients send for it: HUP, INT, QUIT, KILL and TERM.
const ENDING: [u32; 5] = [1, 2, 3, 9, 15];

pub(crate) async fn kill(service: &Service, request: KillRequest) -> ttrpc::Result<Empty> {
    if request.exec_id.is_empty() && ENDING.contains(&request.signal) {
        // There may be no process yet, and what is read or compiled for one takes as long as the image makes it.
        if service.registry().cancel(&request.id) {
            return Ok(Empty::new());
        }
        // One that has settled is there in a moment.
        service.registry().settled(&request.id).await;
    }
    match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.kill(request.signal, request.all).await,
        Process::Exec(exec) => exec.kill(request.signal).await,
    }
    .map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
