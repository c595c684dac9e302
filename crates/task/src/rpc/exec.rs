//! Exec: another process is added to a container; Start lets it run.

use containerd_shim_protos::api::{Empty, ExecProcessRequest};
use wherry_bundle::config::Process;
use wherry_container::ExecConfig;
use wherry_container::StdioPaths;

use crate::convert;
use crate::error::from_container;
use crate::rpc::create::valid_id;
use crate::service::Service;

pub(crate) fn exec(service: &Service, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
    let container = service.container(&request.id)?;
    valid_id(&request.exec_id)?;
    let what = "the process to execute";
    let Process { cwd, .. } = convert::json("Process", what, &request.spec)?;
    let config = ExecConfig {
        exec_id: request.exec_id,
        process: convert::text(what, &request.spec)?,
        cwd,
        terminal: request.terminal,
    };
    let stdio = StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
    container.exec(config, stdio).map_err(|error| from_container(&error))?;
    Ok(Empty::new())
}
