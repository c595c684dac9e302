//! Pids: the processes of a container, by their pids on the host.
//!
//! After a restart containerd takes an error or an empty list for a leaked shim and kills the
//! container, so the list is never empty. It does so with the id of a pod sandbox too, unless it
//! knows the pod: that list is always empty.

use containerd_shim_protos::api::{PidsRequest, PidsResponse, ProcessInfo};
use containerd_shim_protos::shim::oci::ProcessDetails;

use crate::convert;
use crate::error::Result;
use crate::service::Service;

pub(crate) fn pids(service: &Service, request: &PidsRequest) -> Result<PidsResponse> {
    if service.pod(&request.id).is_ok() {
        return Ok(PidsResponse::new());
    }
    let container = service.container(&request.id)?;
    let mut pids = container.pids();
    if pids.is_empty() {
        // The container has ended and is not deleted yet.
        pids.push(container.pid());
    }
    let mut execs = container.exec_pids();
    let mut response = PidsResponse::new();
    response.processes = pids
        .into_iter()
        .map(|pid| {
            let mut process = ProcessInfo::new();
            process.pid = convert::pid(pid);
            if let Some(exec_id) = execs.remove(&pid) {
                let mut details = ProcessDetails::new();
                details.exec_id = exec_id;
                process.info =
                    Some(convert::any("containerd.runc.v1.ProcessDetails", &details)?).into();
            }
            Ok(process)
        })
        .collect::<Result<_>>()?;
    Ok(response)
}
