//! What a pod's security context takes from its containers.

use serde_json::{Value, json};
use wherry_k8s::pod::status;
use wherry_k8s::{Kind, Pod, Space};

/// A file of `/proc` about a container's first process, as the node sees it.
fn proc_file(pod: &Pod<'_>, container: &str, file: &str) -> String {
    let id = status(&pod.get(), container)["containerID"].clone();
    let node = pod.node();
    let pid = node.pid_of(id.as_str().expect("a container has an id"));
    node.shell(&format!("cat /proc/{pid}/{file}"))
}

fn restricted(args: &[&str]) -> Value {
    json!({
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "args": args,
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "emptyDir": {}}],
    })
}

fn enforce_restricted(space: &Space) {
    let labels =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    space.api().patch(&format!("/api/v1/namespaces/{}", space.name()), &labels);
}

fn a_restricted_pod_runs_without_privileges(kind: Kind) {
    let space = Space::new(kind);
    enforce_restricted(&space);
    let pod = space.pod("restricted", restricted(&["do", "write /data/file yes", "sleep 1000"]));
    pod.wait_log("main", "ready");
    let facts = proc_file(&pod, "main", "status");
    let fact = |name: &str| {
        let line = facts.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(fact("Uid:"), "65534 65534 65534 65534");
    assert_eq!(fact("CapEff:"), "0000000000000000");
    assert_eq!(fact("CapBnd:"), "0000000000000000");
    assert_eq!(fact("NoNewPrivs:"), "1");
    assert_eq!(fact("Seccomp:"), "2");
}

fn a_read_only_root_is_read_only(kind: Kind) {
    let space = Space::new(kind);
    enforce_restricted(&space);
    let pod =
        space.pod("read-only", restricted(&["do", "write /tmp/file no", "write /data/file yes"]));
    let ended = pod.wait_ended("main");
    let log = pod.log("main");
    assert_eq!(ended["exitCode"], 1, "one write fails: {log}");
    assert!(log.contains("/tmp/file: "), "{log}");
}

fn a_user_that_may_not_be_root_is_refused_as_root(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "root",
        json!({
            "securityContext": {"runAsNonRoot": true},
            "containers": [{"args": ["echo", "never"]}],
        }),
    );
    let event = pod.wait_event("runAsNonRoot");
    assert!(event.contains("image will run as root"), "{event}");
}

/// Debian's runc does not report that it can do that.
#[test]
fn a_pod_has_users_of_its_own_where_it_says_so() {
    let space = Space::new(Kind::Wasm);
    // containerd before 2.4 asks handlers of runc's type alone whether they can do that.
    let pod = space.pod(
        "users",
        json!({
            "hostUsers": false, "runtimeClassName": "wasm-features",
            "containers": [{"args": ["sleep", "1000"]}],
        }),
    );
    pod.wait_ready();
    let map = proc_file(&pod, "main", "uid_map");
    let numbers: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0], 0, "{map}");
    assert!(numbers[1] >= 65536, "root is another user on the node: {map}");
    assert_eq!(pod.exec("main", &["/kit", "echo", "inside"]).success(), "inside\n");
}

fn sysctls_are_the_pods_own(kind: Kind) {
    let space = Space::new(kind);
    let printed = space.output(
        "sysctls",
        json!({
            "securityContext": {"sysctls": [
                {"name": "net.ipv4.ip_unprivileged_port_start", "value": "123"},
                {"name": "net.core.somaxconn", "value": "1234"},
            ]},
            "containers": [{"image": "wherry/busybox:1", "command": ["cat",
                "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/core/somaxconn"]}],
        }),
    );
    assert_eq!(printed, "123\n1234\n");
}

wherry_k8s::on_both!(
    a_restricted_pod_runs_without_privileges,
    a_read_only_root_is_read_only,
    a_user_that_may_not_be_root_is_refused_as_root,
    sysctls_are_the_pods_own,
);
