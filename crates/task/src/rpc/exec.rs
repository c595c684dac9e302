//! Exec: adds a process to a container, which Start starts.

use containerd_shim_protos::api::{Empty, ExecProcessRequest};
use wherry_bundle::config::Process;
use wherry_container::{ExecConfig, StdioPaths};

use crate::convert;
use crate::error::Result;
use crate::rpc::create::check_id;
use crate::service::Service;

pub(crate) fn exec(service: &Service, request: ExecProcessRequest) -> Result<Empty> {
    let container = service.container(&request.id)?;
    check_id("exec", &request.exec_id)?;
    let field = "process to execute";
    let Process { cwd, .. } = convert::json("Process", field, &request.spec)?;
    let config = ExecConfig {
        exec_id: request.exec_id,
        process: convert::text(field, &request.spec)?,
        cwd,
        terminal: request.terminal,
    };
    let stdio = StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
    container.exec(config, stdio)?;
    Ok(Empty::new())
}
