//! Kill: a signal to the guest.

use containerd_shim_protos::api::{Empty, KillRequest};

use crate::error::from_container;
use crate::service::Service;

pub(crate) async fn kill(service: &Service, request: KillRequest) -> ttrpc::Result<Empty> {
    let container = service.init(&request.id, &request.exec_id)?;
    container.kill(request.signal, request.all).await.map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
