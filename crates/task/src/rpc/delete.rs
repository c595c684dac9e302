//! Delete: removes an ended process and, if that is the init process, its container.

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::convert;
use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) async fn delete(service: &Service, request: DeleteRequest) -> Result<DeleteResponse> {
    // A client deletes a container when it has stopped waiting for its Create.
    if request.exec_id.is_empty() {
        // Without a Create in progress there is nothing to cancel.
        let _ = service.registry().cancel(&request.id);
    }
    service.registry().settled(&request.id).await;
    let (result, pid) = match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => (container.delete().await, container.pid()),
        Process::Exec(exec) => (exec.delete().await, exec.snapshot().pid),
    };
    let exit = result?;
    if request.exec_id.is_empty() {
        service.registry().remove(&request.id);
    } else if let Ok(container) = service.container(&request.id) {
        container.forget_exec(&request.exec_id);
    }
    let mut response = DeleteResponse::new();
    response.pid = convert::pid(pid);
    response.exit_status = exit.status;
    response.exited_at = Some(Timestamp::from(exit.at)).into();
    Ok(response)
}
