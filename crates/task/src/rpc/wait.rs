//! Wait: answers when the guest has ended.

use containerd_shim_protos::api::{WaitRequest, WaitResponse};

use crate::convert;
use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn wait(service: &Service, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
    let container = service.init(&request.id, &request.exec_id)?;
    let exit = container.wait().await.map_err(|error| from_container(&error))?;
    let mut response = WaitResponse::new();
    response.exit_status = exit.status;
    response.exited_at = Some(convert::timestamp(exit.at)).into();
    Ok(response)
}
