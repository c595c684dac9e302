//! Pids: the processes of a container, as the host numbers them.
//!
//! After a restart containerd takes an error or an empty list for a container that is lost: one
//! that lives has its first process, at least.

use containerd_shim_protos::api::{PidsRequest, PidsResponse, ProcessInfo};
use containerd_shim_protos::shim::oci::ProcessDetails;

use crate::convert;
use crate::service::Service;

pub(crate) fn pids(service: &Service, request: &PidsRequest) -> ttrpc::Result<PidsResponse> {
    let container = service.container(&request.id)?;
    let mut pids = container.pids();
    if pids.is_empty() {
        // Ended and not deleted: there is still something to ask for, so it is not lost.
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
        .collect::<ttrpc::Result<_>>()?;
    Ok(response)
}
