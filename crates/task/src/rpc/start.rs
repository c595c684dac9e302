//! Start: the guest runs.

use containerd_shim_protos::api::{StartRequest, StartResponse};

use crate::convert;
use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn start(
    service: &Service,
    request: StartRequest,
) -> ttrpc::Result<StartResponse> {
    let container = service.init(&request.id, &request.exec_id)?;
    container.start().await.map_err(|error| from_container(&error))?;
    let mut response = StartResponse::new();
    response.pid = convert::pid(container.pid());
    Ok(response)
}
