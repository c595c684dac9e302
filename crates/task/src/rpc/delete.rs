//! Delete: nothing is left of a process that has ended, nor, if it was a container's first one, of
//! the container.

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};

use crate::convert;
use crate::error::from_container;
use crate::service::{Process, Service};

pub(crate) async fn delete(
    service: &Service,
    request: DeleteRequest,
) -> ttrpc::Result<DeleteResponse> {
    // A client that does not want to wait for a container any longer deletes it.
    if request.exec_id.is_empty() {
        let _ = service.registry().cancel(&request.id);
    }
    service.registry().settled(&request.id).await;
    let (result, pid) = match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => (container.delete().await, container.pid()),
        Process::Exec(exec) => (exec.delete().await, exec.snapshot().pid),
    };
    let exit = result.map_err(|error| from_container(&error))?;
    if request.exec_id.is_empty() {
        service.registry().remove(&request.id);
    } else if let Ok(container) = service.container(&request.id) {
        container.forget_exec(&request.exec_id);
    }
    let mut response = DeleteResponse::new();
    response.pid = convert::pid(pid);
    response.exit_status = exit.status;
    response.exited_at = Some(convert::timestamp(exit.at)).into();
    Ok(response)
}
