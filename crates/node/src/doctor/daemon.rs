//! Checks of containerd: version, configuration, CRI, handlers and the RuntimeClasses that name
//! them.

use std::path::Path;

use serde_json::Value;

use super::{Checked, Findings};
use crate::config::{Version, document};
use crate::cri::Running;
use crate::root::SEARCH_PATH;

/// The paths of the administrator's kubeconfig in the distributions.
const KUBECONFIGS: [&str; 3] =
    ["/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml", "/etc/rancher/rke2/rke2.yaml"];

/// Checks containerd.
pub(super) fn check(checked: &Checked, findings: &mut Findings) {
    let node = &checked.node;
    let version = match node.version() {
        Ok(version) => version,
        Err(error) => {
            let advice = format!("start containerd: systemctl status {}", node.units.join(" "));
            return findings.fail("containerd", error.to_string(), &advice);
        }
    };
    findings.ok(
        "containerd",
        format!("version {version} of {}, {}", node.distribution.name(), node.socket.display()),
    );
    configuration(checked, version, findings);
    let running = match &checked.running {
        Ok(running) => running,
        Err(error) => {
            return findings.fail(
                "CRI",
                error.to_string(),
                "remove \"cri\" from disabled_plugins in containerd's configuration and restart containerd",
            );
        }
    };
    match &running.not_ready {
        None => findings.ok("CRI", "answers and is ready"),
        Some(reason) => {
            findings.fail("CRI", format!("not ready: {reason}"), "see containerd's log")
        }
    }
    if running.selinux() {
        findings.fail(
            "SELinux",
            "containerd gives containers SELinux labels, and Wherry refuses a container with one",
            "set enable_selinux = false for the CRI plug-in, or keep wasm pods off this node by its label",
        );
    }
    handlers(checked, running, version, findings);
    classes(checked, running, findings);
}

fn configuration(checked: &Checked, version: Version, findings: &mut Findings) {
    let node = &checked.node;
    let path = node.config.display();
    let head = node.read(&node.config).map(|text| text.map(|text| document::head(&text, version)));
    match head {
        Ok(None) => {
            findings.ok("configuration", format!("{path} does not exist: containerd's defaults"))
        }
        Ok(Some(Ok(head))) => {
            let number =
                head.version.map_or_else(|| "no setting".to_owned(), |n| format!("version {n}"));
            findings.ok("configuration", format!("{path}, {number}"));
        }
        Ok(Some(Err(error))) => {
            findings.fail("configuration", format!("{path}: {error}"), "correct the file")
        }
        Err(error) => findings.fail("configuration", error.to_string(), "run this as root"),
    }
    if let Err(error) = node.dump() {
        findings.fail(
            "configuration",
            error.to_string(),
            "correct the file: containerd would not start with it",
        );
    }
}

fn handlers(checked: &Checked, running: &Running, version: Version, findings: &mut Findings) {
    if checked.record.is_empty() {
        findings.warn(
            "handlers",
            "wherry-node has installed nothing here",
            "run wherry-node install",
        );
    }
    for engine in &checked.record.engines {
        if !running.handlers.contains(engine) {
            findings.fail(
                "handlers",
                format!("containerd does not list {engine}, which is installed"),
                "run wherry-node install: it repairs the configuration and restarts containerd",
            );
        } else if version >= Version::new(2, 0) && !running.user_namespaces.contains(engine) {
            findings.warn(
                "handlers",
                format!("{engine} is listed without user namespaces: pods with hostUsers: false are refused"),
                "run wherry-node install, which configures the runtime so that containerd asks it",
            );
        } else {
            findings.ok("handlers", format!("{engine} is listed"));
        }
    }
}

/// Compares RuntimeClasses with handlers, where kubectl works.
fn classes(checked: &Checked, running: &Running, findings: &mut Findings) {
    let root = &checked.node.root;
    let Some(kubectl) = root.find_program("kubectl", SEARCH_PATH) else {
        return findings.skip(
            "RuntimeClasses",
            "kubectl is missing here; compare: kubectl get runtimeclasses",
        );
    };
    let mut command = root.command(&kubectl);
    command.args(["get", "runtimeclasses", "--output", "json", "--request-timeout", "5s"]);
    let given = std::env::var("KUBECONFIG").ok();
    let known = || KUBECONFIGS.into_iter().find(|path| root.exists(path)).map(str::to_owned);
    if let Some(file) = given.or_else(known) {
        command.env("KUBECONFIG", file);
    }
    let answer = command.output().ok().filter(|output| output.status.success());
    let Some(list) = answer.and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok())
    else {
        return findings.skip(
            "RuntimeClasses",
            "kubectl does not reach a cluster from here; compare: kubectl get runtimeclasses",
        );
    };
    let items = list.get("items").and_then(Value::as_array);
    let classes: Vec<(String, String)> = items
        .into_iter()
        .flatten()
        .filter_map(|item| {
            let name = item.pointer("/metadata/name")?.as_str()?;
            Some((name.to_owned(), item.get("handler")?.as_str()?.to_owned()))
        })
        .collect();
    compare(&classes, &checked.record.engines, running, findings);
}

fn compare(
    classes: &[(String, String)],
    engines: &[String],
    running: &Running,
    findings: &mut Findings,
) {
    for engine in engines {
        match classes.iter().find(|(_, handler)| handler == engine) {
            Some((name, _)) => {
                findings.ok("RuntimeClasses", format!("{name} names the handler {engine}"))
            }
            None => findings.fail(
                "RuntimeClasses",
                format!("none names the handler {engine}"),
                "install the chart, or apply the RuntimeClass of docs/kubernetes.md",
            ),
        }
    }
    for (name, handler) in classes {
        if !running.handlers.contains(handler) && !engines.contains(handler) {
            findings.warn(
                "RuntimeClasses",
                format!("{name} names the handler {handler}, which containerd does not list here"),
                "pods of this class fail on this node unless the class selects other nodes",
            );
        }
    }
}

/// The directories in which containerd searches for a shim.
pub(super) fn search_path(checked: &Checked) -> String {
    // containerd also searches the directory that its executable is in.
    let beside = checked.node.containerd.as_deref().and_then(Path::parent);
    let path = checked.variable("PATH").unwrap_or(SEARCH_PATH);
    beside.map_or_else(|| path.to_owned(), |beside| format!("{}:{path}", beside.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn handlers_and_classes_are_compared_both_ways() {
        let running = Running {
            handlers: vec!["runc".into(), "wamr".into()],
            user_namespaces: Vec::new(),
            not_ready: None,
            config: Value::Null,
        };
        let class = |name: &str, handler: &str| (name.to_owned(), handler.to_owned());
        let classes = [class("wamr", "wamr"), class("kata", "kata-qemu")];
        let mut findings = Findings::default();
        compare(&classes, &["wamr".into(), "wasmtime".into()], &running, &mut findings);
        let levels: Vec<Level> = findings.0.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Fail, Level::Warn]);
        assert!(findings.0[2].text.contains("kata-qemu"));
    }
}
