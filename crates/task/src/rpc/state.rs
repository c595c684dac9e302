//! State: the current state of a process.

use containerd_shim_protos::api::{StateRequest, StateResponse, Status};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use wherry_container::State;

use crate::convert;
use crate::error::Result;
use crate::service::{Process, Service};

pub(crate) fn state(service: &Service, request: &StateRequest) -> Result<StateResponse> {
    let process = service.process(&request.id, &request.exec_id)?;
    let (snapshot, stdio, terminal) = match &process {
        Process::Init(container) => {
            let config = container.config();
            (container.snapshot(), &config.stdio, config.container.terminal)
        }
        Process::Exec(exec) => (exec.snapshot(), exec.stdio(), exec.config().terminal),
    };
    let mut response = StateResponse::new();
    response.id = request.id.clone();
    response.exec_id = request.exec_id.clone();
    response.bundle =
        service.container(&request.id)?.config().container.bundle.display().to_string();
    response.pid = convert::pid(snapshot.pid);
    response.status = match snapshot.state {
        State::Created => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Paused => Status::PAUSED,
        State::Stopped(_) | State::Deleted(_) => Status::STOPPED,
    }
    .into();
    response.stdin = stdio.stdin.clone();
    response.stdout = stdio.stdout.clone();
    response.stderr = stdio.stderr.clone();
    response.terminal = terminal;
    if let Some(exit) = snapshot.state.exit() {
        response.exit_status = exit.status;
        response.exited_at = Some(Timestamp::from(exit.at)).into();
    }
    Ok(response)
}
