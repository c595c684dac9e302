//! Restarting containerd, and waiting until it serves.

use std::thread;
use std::time::{Duration, Instant};

use crate::cri::Running;
use crate::error::NodeError;
use crate::node::Node;
use crate::say;
use crate::systemd::Systemd;

/// containerd serves CRI a few hundred milliseconds after its start.
const POLL: Duration = Duration::from_millis(200);

/// Restarts containerd: with the command that the command line names, else through systemd.
pub(crate) fn restart(node: &Node, timeout: Duration) -> Result<(), NodeError> {
    if let Some(command) = &node.restart_command {
        say(format!("restarting containerd: {command}"));
        return node.root.shell(command);
    }
    let mut systemd = Systemd::connect(&node.root)
        .map_err(|error| NodeError::NoRestart { reason: error.to_string() })?;
    let unit = systemd.active_unit(&node.units)?;
    say(format!("restarting {unit}"));
    systemd.restart(&unit, timeout)
}

/// Waits until CRI answers, is ready, and `wanted` finds nothing to complain about.
pub(crate) fn wait(
    node: &Node,
    timeout: Duration,
    wanted: impl Fn(&Running) -> Option<String>,
) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let complaint = match node.cri().and_then(|cri| cri.running()) {
            Ok(running) => match (running.not_ready.clone(), wanted(&running)) {
                (None, None) => return Ok(()),
                (Some(reason), _) | (None, Some(reason)) => reason,
            },
            Err(error) => error.to_string(),
        };
        if started.elapsed() > timeout {
            return Err(complaint);
        }
        thread::sleep(POLL);
    }
}

/// The first of these handlers that is not listed, as a complaint.
pub(crate) fn missing(running: &Running, handlers: &[String]) -> Option<String> {
    let handler = handlers.iter().find(|handler| !running.handlers.contains(handler))?;
    Some(format!("the handler {handler} is not listed"))
}
