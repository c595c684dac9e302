//! Delete: nothing is left of a container that has ended.

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};

use crate::convert;
use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn delete(
    service: &Service,
    request: DeleteRequest,
) -> ttrpc::Result<DeleteResponse> {
    let container = service.init(&request.id, &request.exec_id)?;
    let exit = container.delete().await.map_err(|error| from_container(&error))?;
    service.registry().remove(&request.id);
    let mut response = DeleteResponse::new();
    response.pid = convert::pid(container.pid());
    response.exit_status = exit.status;
    response.exited_at = Some(convert::timestamp(exit.at)).into();
    Ok(response)
}
