//! Wait: answers when a process has exited.

use containerd_shim_protos::api::{WaitRequest, WaitResponse};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) async fn wait(service: &Service, request: WaitRequest) -> Result<WaitResponse> {
    let exit = match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => container.wait().await,
        Process::Exec(exec) => exec.wait().await,
    }?;
    let mut response = WaitResponse::new();
    response.exit_status = exit.status;
    response.exited_at = Some(Timestamp::from(exit.at)).into();
    Ok(response)
}
