//! Connect: who serves a container, and as which process it runs.

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};

use crate::convert;
use crate::service::Service;

pub(crate) fn connect(
    service: &Service,
    request: &ConnectRequest,
) -> ttrpc::Result<ConnectResponse> {
    let mut response = ConnectResponse::new();
    response.shim_pid = std::process::id();
    // Docker looks for the network namespace of this process between Create and Start.
    response.task_pid = convert::pid(service.container(&request.id)?.pid());
    response.version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(response)
}
