//! Wait: answers when a process has ended.

use containerd_shim_protos::api::{WaitRequest, WaitResponse};

use crate::convert;
use crate::error::from_container;
use crate::service::{Process, Service};

pub(crate) async fn wait(service: &Service, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
    let exit = match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.wait().await,
        Process::Exec(exec) => exec.wait().await,
    }
    .map_err(|error| from_container(&error))?;
    let mut response = WaitResponse::new();
    response.exit_status = exit.status;
    response.exited_at = Some(convert::timestamp(exit.at)).into();
    Ok(response)
}
