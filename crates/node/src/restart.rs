//! Restarting containerd, and waiting until it serves.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Runtime;
use crate::cri::Running;
use crate::error::NodeError;
use crate::node::Node;
use crate::plan::Wanted;
use crate::print_line;
use crate::systemd::Systemd;

/// containerd serves CRI a few hundred milliseconds after its start.
const POLL: Duration = Duration::from_millis(200);

/// Restarts containerd: with the command that the command line names, else through systemd.
pub(crate) fn restart(node: &Node, timeout: Duration) -> Result<(), NodeError> {
    if let Some(command) = &node.restart_command {
        print_line(format!("restarting containerd: {command}"));
        return node.root.shell(command);
    }
    let mut systemd = Systemd::connect(&node.root)
        .map_err(|error| NodeError::NoRestart { reason: error.to_string() })?;
    let unit = systemd.active_unit(&node.units)?;
    print_line(format!("restarting {unit}"));
    systemd.restart(&unit, timeout)
}

/// Waits until CRI answers, is ready, and `wanted` returns no difference.
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

/// Returns the text of an error if one of these handlers is not listed.
pub(crate) fn missing(running: &Running, handlers: &[String]) -> Option<String> {
    let handler = handlers.iter().find(|handler| !running.handlers.contains(handler))?;
    Some(format!("the handler {handler} is not listed"))
}

/// Returns the text of an error if the running containerd differs from these runtimes: it may not
/// have been restarted since its configuration was changed.
pub(crate) fn differs(running: &Running, wanted: &Wanted<'_>) -> Option<String> {
    if let Some(gone) = wanted.gone.iter().find(|name| running.handlers.contains(name)) {
        return Some(format!("the handler {gone} is still listed"));
    }
    for runtime in wanted.runtimes {
        let Runtime { handler, runtime_type, runtime_path, .. } = runtime;
        if !running.handlers.contains(handler) {
            return Some(format!("the handler {handler} is not listed"));
        }
        let served = running.config.pointer(&format!("/containerd/runtimes/{handler}"));
        let text = |key: &str| {
            served.and_then(|value| value.get(key)).and_then(Value::as_str).unwrap_or_default()
        };
        let path = runtime_path.as_deref().unwrap_or_default();
        let by_shim = (text("sandboxer") == "shim").then_some("shim");
        let as_wanted = text("runtimeType") == runtime_type
            && text("runtimePath") == path
            && by_shim == runtime.sandboxer_key();
        if served.is_some() && !as_wanted {
            return Some(format!("the handler {handler} is listed with its earlier settings"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sandboxer, Version};
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_containerd_that_runs_with_earlier_settings_is_noticed() {
        let (directory, version) = (Path::new("/opt/b"), Version::new(1, 7));
        let sandboxer = Sandboxer::Podsandbox;
        let runtimes = [Runtime::new("wamr", directory, false, version, false, sandboxer)];
        let gone = ["wasmer".to_owned()];
        let wanted = Wanted { runtimes: &runtimes, gone: &gone };
        let running = |handlers: &[&str], path: &str| Running {
            handlers: handlers.iter().map(|&name| name.to_owned()).collect(),
            user_namespaces: Vec::new(),
            not_ready: None,
            config: json!({"containerd": {"runtimes": {"wamr": {
                "runtimeType": "io.containerd.wamr.v1", "runtimePath": path}}}}),
        };
        let path = "/opt/b/containerd-shim-wamr-v1";
        assert_eq!(differs(&running(&["wamr"], path), &wanted), None);
        for other in
            [running(&["wamr"], ""), running(&[], path), running(&["wamr", "wasmer"], path)]
        {
            assert!(differs(&other, &wanted).is_some());
        }
    }
}
