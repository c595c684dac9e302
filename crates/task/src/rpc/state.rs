//! State: how a container is at this moment.

use containerd_shim_protos::api::{StateRequest, StateResponse, Status};
use wherry_container::State;

use crate::convert;
use crate::service::Service;

pub(crate) fn state(service: &Service, request: &StateRequest) -> ttrpc::Result<StateResponse> {
    let container = service.init(&request.id, &request.exec_id)?;
    let config = container.config();
    let state = container.snapshot().state;
    let mut response = StateResponse::new();
    response.id = config.id.clone();
    response.bundle = config.bundle.display().to_string();
    response.pid = convert::pid(container.pid());
    response.status = match state {
        State::Created => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Paused => Status::PAUSED,
        State::Stopped(_) | State::Deleted(_) => Status::STOPPED,
    }
    .into();
    response.stdin = config.stdio.stdin.clone();
    response.stdout = config.stdio.stdout.clone();
    response.stderr = config.stdio.stderr.clone();
    if let Some(exit) = state.exit() {
        response.exit_status = exit.status;
        response.exited_at = Some(convert::timestamp(exit.at)).into();
    }
    Ok(response)
}
