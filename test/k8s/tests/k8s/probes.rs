//! Probes and lifecycle hooks.

use serde_json::{Value, json};
use wherry_k8s::pod::status;
use wherry_k8s::{Kind, Space};

/// A container of `kit` that sleeps, with a folder /state, and these further fields.
fn sleeper(fields: Value) -> Value {
    let mut container = json!({"args": ["sleep", "1000"], "volumeMounts": [{"name": "state", "mountPath": "/state"}]});
    for (key, value) in fields.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "volumes": [{"name": "state", "emptyDir": {}}]})
}

fn reads(path: &str) -> Value {
    json!({"exec": {"command": ["/kit", "read", path]}, "periodSeconds": 1, "timeoutSeconds": 20})
}

fn a_readiness_probe_by_exec_decides(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod("ready", sleeper(json!({"readinessProbe": reads("/state/ready")})));
    pod.wait_log("main", "ready");
    pod.wait_event("Unhealthy");
    assert_eq!(status(&pod.get(), "main")["ready"], false);
    pod.exec("main", &["/kit", "write", "/state/ready", "yes"]).success();
    pod.wait_ready();
}

fn a_failing_liveness_probe_by_exec_restarts_the_container(kind: Kind) {
    let space = Space::new(kind);
    let mut probe = reads("/state/alive");
    probe["failureThreshold"] = json!(1);
    let mut fields = sleeper(json!({"livenessProbe": probe}));
    fields["restartPolicy"] = json!("Always");
    let pod = space.pod("alive", fields);
    let status = pod.wait_restarts("main", 1);
    let last = &status["lastState"]["terminated"];
    // SIGTERM ends a wasm guest. A native first process ignores it, and is killed after the grace
    // period.
    let expected = if kind == Kind::Wasm { 143 } else { 137 };
    assert_eq!(last["exitCode"], expected, "{status:#}");
}

fn a_startup_probe_delays_the_others(kind: Kind) {
    let space = Space::new(kind);
    let mut startup = reads("/state/started");
    startup["failureThreshold"] = json!(1000);
    let mut liveness = reads("/state/started");
    liveness["failureThreshold"] = json!(1);
    let fields = sleeper(json!({"startupProbe": startup, "livenessProbe": liveness}));
    let pod = space.pod("startup", fields);
    pod.wait_event("Startup probe failed");
    assert_eq!(status(&pod.get(), "main")["started"], false);
    pod.exec("main", &["/kit", "write", "/state/started", "yes"]).success();
    let ready = pod.wait_ready();
    assert_eq!(status(&ready, "main")["restartCount"], 0, "{ready:#}");
}

fn probes_by_http_and_tcp_reach_the_container(kind: Kind) {
    let space = Space::new(kind);
    let mut web = kind.web(8080);
    web["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    web["startupProbe"] =
        json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 100});
    let pod = space.pod("web", json!({"containers": [web]}));
    pod.wait_ready();
}

fn a_failing_liveness_probe_by_http_restarts_the_container(kind: Kind) {
    let space = Space::new(kind);
    let mut web = kind.web(8080);
    web["livenessProbe"] = json!({
        "httpGet": {"path": "/fail", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2,
    });
    let pod = space.pod("web", json!({"containers": [web], "restartPolicy": "Always"}));
    pod.wait_restarts("web", 1);
    pod.wait_event("Liveness probe failed");
}

fn hooks_run_after_the_start_and_before_the_end(kind: Kind) {
    let space = Space::new(kind);
    let folder = format!("/var/lib/{}", space.name());
    let write = |name: &str| json!({"exec": {"command": ["/kit", "write", format!("/state/{name}"), "yes"]}});
    let mut fields =
        sleeper(json!({"lifecycle": {"postStart": write("started"), "preStop": write("stopped")}}));
    fields["volumes"] =
        json!([{"name": "state", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}]);
    // The hook's time counts as part of it.
    fields["terminationGracePeriodSeconds"] = json!(30);
    let pod = space.pod("hooks", fields);
    pod.wait_ready();
    let node = pod.node();
    assert_eq!(node.shell(&format!("ls {folder}")), "started\n");
    pod.delete();
    assert_eq!(node.shell(&format!("ls {folder}")), "started\nstopped\n");
}

fn a_hook_that_fails_is_an_event(kind: Kind) {
    let space = Space::new(kind);
    let hook = json!({"exec": {"command": ["/kit", "exit", "3"]}});
    let pod = space.pod("hook", sleeper(json!({"lifecycle": {"postStart": hook}})));
    let event = pod.wait_event("FailedPostStartHook");
    assert!(event.contains("PostStartHook failed"), "{event}");
}

wherry_k8s::on_both!(
    a_readiness_probe_by_exec_decides,
    a_failing_liveness_probe_by_exec_restarts_the_container,
    a_startup_probe_delays_the_others,
    probes_by_http_and_tcp_reach_the_container,
    a_failing_liveness_probe_by_http_restarts_the_container,
    hooks_run_after_the_start_and_before_the_end,
    a_hook_that_fails_is_an_event,
);
