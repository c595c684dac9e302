//! Stats: what a container has used. Answers until Delete: containerd reads the count of
//! out-of-memory kills after the end.

use containerd_shim_protos::api::{StatsRequest, StatsResponse};
use ttrpc::Code;

use crate::error::status;
use crate::service::Service;

pub(crate) fn stats(service: &Service, request: &StatsRequest) -> ttrpc::Result<StatsResponse> {
    let container = service.container(&request.id)?;
    let usage = container.usage().ok_or_else(|| {
        let text = format!("container {:?} ended before its cgroup was seen", request.id);
        status(Code::FAILED_PRECONDITION, text)
    })?;
    let mut response = StatsResponse::new();
    response.stats = Some(crate::stats::metrics(&usage)?).into();
    Ok(response)
}
