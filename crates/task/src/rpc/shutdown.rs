//! Shutdown: the daemon ends, if it serves nobody any more. containerd sends this after each
//! Delete, and a pod has several containers.

use containerd_shim_protos::api::{Empty, ShutdownRequest};

use crate::service::Service;

pub(crate) fn shutdown(service: &Service, _: &ShutdownRequest) -> ttrpc::Result<Empty> {
    // `now` too: a guest without a daemon would be lost.
    if service.registry().is_empty() {
        service.end();
    }
    Ok(Empty::new())
}
