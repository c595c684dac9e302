//! Shutdown: ends the daemon when it has no container left.
//!
//! containerd sends this after each Delete, and a pod has several containers. It may also arrive
//! while a Create is in progress and is not sent again, so the registry remembers it. With the id
//! of a pod sandbox it means that containerd has given up the pod after a restart. A manager stays.

use containerd_shim_protos::api::{Empty, ShutdownRequest};

use crate::error::Result;
use crate::sandbox;
use crate::service::Service;

pub(crate) async fn shutdown(service: &Service, request: &ShutdownRequest) -> Result<Empty> {
    if let Ok(pod) = service.pod(&request.id) {
        sandbox::remove(service, &pod).await?;
    }
    // `now` changes nothing: without its daemon a guest could not be reaped.
    service.request_shutdown();
    Ok(Empty::new())
}
