//! Connect: the pids of the shim and of a container's init. containerd also asks for those of a pod
//! sandbox when it has been restarted.

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};

use crate::convert;
use crate::error::Result;
use crate::service::Service;

pub(crate) fn connect(service: &Service, request: &ConnectRequest) -> Result<ConnectResponse> {
    // Docker 28 opens the network namespace of this process between Create and Start.
    let pid = match service.pod(&request.id) {
        Ok(pod) => pod.pid(),
        Err(_) => service.container(&request.id)?.pid(),
    };
    let mut response = ConnectResponse::new();
    response.shim_pid = std::process::id();
    response.task_pid = convert::pid(pid);
    response.version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(response)
}
