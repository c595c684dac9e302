//! Shutdown: ends the daemon when it has no container left.
//!
//! containerd sends this after each Delete, and a pod has several containers. It may also arrive
//! while a Create is in progress and is not sent again, so the registry remembers it.

use containerd_shim_protos::api::{Empty, ShutdownRequest};

use crate::service::Service;

pub(crate) fn shutdown(service: &Service, _: &ShutdownRequest) -> Empty {
    // `now` changes nothing: without its daemon a guest could not be reaped.
    service.registry().request_shutdown();
    Empty::new()
}
