//! `hold`: the DaemonSet's long-running container, which has no privileges and does nothing.
//!
//! A DaemonSet's pod must have a container that runs. The installation is done by an init
//! container, which has exited when this one starts, so that no privileged process stays on the
//! node.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

use crate::error::NodeError;

/// Waits for SIGTERM or SIGINT.
pub(crate) fn run() -> Result<ExitCode, NodeError> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let wait = || {
        signals.thread_block()?;
        signals.wait()
    };
    wait().map_err(|e| NodeError::Program { program: "hold".into(), reason: e.to_string() })?;
    Ok(ExitCode::SUCCESS)
}
