//! Connect: the pids of the shim and of a container's init.

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};

use crate::convert;
use crate::error::Result;
use crate::service::Service;

pub(crate) fn connect(service: &Service, request: &ConnectRequest) -> Result<ConnectResponse> {
    let mut response = ConnectResponse::new();
    response.shim_pid = std::process::id();
    // Docker 28 opens the network namespace of this process between Create and Start.
    response.task_pid = convert::pid(service.container(&request.id)?.pid());
    response.version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(response)
}
