//! Stats: the resource usage of a container. Answered until Delete, because containerd reads the
//! count of out-of-memory kills after the exit.

use containerd_shim_protos::api::{StatsRequest, StatsResponse};

use crate::error::{Error, Result};
use crate::service::Service;

pub(crate) fn stats(service: &Service, request: &StatsRequest) -> Result<StatsResponse> {
    let container = service.container(&request.id)?;
    let usage = container.usage().ok_or_else(|| Error::NoUsage(request.id.clone()))?;
    let mut response = StatsResponse::new();
    response.stats = Some(crate::stats::metrics(&usage)?).into();
    Ok(response)
}
