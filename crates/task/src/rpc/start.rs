//! Start: starts a container's init process, or an exec.

use containerd_shim_protos::api::{StartRequest, StartResponse};
use wherry_sys::measure::{Clock, Measurement};

use crate::convert;
use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) async fn start(service: &Service, request: StartRequest) -> Result<StartResponse> {
    let (result, pid) = match service.process(&request.id, &request.exec_id)? {
        Process::Init(container) => {
            let clock = Clock::start();
            let result = container.start().await;
            let success = result.is_ok();
            clock.report(|took| Measurement::Started { id: &request.id, success, took });
            (result, container.pid())
        }
        Process::Exec(exec) => (exec.start().await, exec.snapshot().pid),
    };
    result?;
    let mut response = StartResponse::new();
    response.pid = convert::pid(pid);
    Ok(response)
}
