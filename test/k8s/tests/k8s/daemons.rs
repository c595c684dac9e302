//! Pods outlive the node's daemons, and leave nothing behind.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use wherry_k8s::pod::status;
use wherry_k8s::{Cluster, Kind, Node, PATIENCE, Pod, Space};
use wherry_testing::wait_until;

/// Makes a pod on a node that prints numbers.
fn ticking<'s>(space: &'s Space, node: &Node, name: &str) -> Pod<'s> {
    let fields = json!({
        "nodeName": node.name(), "restartPolicy": "Always",
        "containers": [{"args": ["tick", "100"]}],
    });
    let pod = space.pod(name, fields);
    pod.wait_ready();
    pod
}

/// Asserts that the pod's container is the same as before, still writes its log and answers exec.
#[track_caller]
fn assert_unharmed(pod: &Pod<'_>, before: &Value) {
    let lines = || pod.log("main").lines().count();
    let seen = lines();
    wait_until("the log grows", PATIENCE, || lines() > seen);
    pod.wait("readiness", |pod| status(pod, "main")["ready"] == true);
    let now = status(&pod.get(), "main");
    assert_eq!(now["containerID"], before["containerID"], "{now:#}");
    assert_eq!(now["restartCount"], 0, "{now:#}");
    assert_eq!(pod.exec("main", &["/kit", "echo", "still", "here"]).success(), "still here\n");
}

fn pods_outlive_containerd(kind: Kind) {
    let (_guard, node) = Cluster::shared().spare();
    let space = Space::new(kind);
    let pod = ticking(&space, node, "steady");
    let before = status(&pod.get(), "main");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        node.end_containerd(signal);
        node.start_containerd();
        assert_unharmed(&pod, &before);
    }
    pod.delete();
}

/// With runc, containerd 2.1 reports 255 for a container that ended meanwhile.
#[test]
fn a_pod_that_ends_while_containerd_is_away_is_reported() {
    let (_guard, node) = Cluster::shared().spare();
    let space = Space::new(Kind::Wasm);
    let fields = json!({"nodeName": node.name(), "containers": [{"args": ["sleep", "5"]}]});
    let pod = space.pod("away", fields);
    pod.wait_log("main", "ready");
    node.end_containerd(Signal::SIGKILL);
    std::thread::sleep(std::time::Duration::from_secs(6));
    node.start_containerd();
    pod.wait_phase("Succeeded");
    assert_eq!(pod.log("main"), "ready\ndone\n");
}

fn a_container_with_open_input_outlives_containerd(kind: Kind) {
    let (_guard, node) = Cluster::shared().spare();
    let space = Space::new(kind);
    let container = json!({"args": ["cat"], "stdin": true});
    let pod = space.pod(
        "input",
        json!({"nodeName": node.name(), "restartPolicy": "Always", "containers": [container]}),
    );
    pod.wait_ready();
    node.end_containerd(Signal::SIGTERM);
    node.start_containerd();
    wait_until("the kubelet has looked again", PATIENCE, || {
        let other = space.kit("other", &["echo", "hello"]);
        other.wait_phase("Succeeded");
        true
    });
    assert_eq!(status(&pod.get(), "main")["restartCount"], 0, "{:#}", pod.get()["status"]);
}

fn pods_outlive_the_kubelet(kind: Kind) {
    let (_guard, node) = Cluster::shared().spare();
    let space = Space::new(kind);
    let pod = ticking(&space, node, "steady");
    let before = status(&pod.get(), "main");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        node.restart_kubelet(signal);
        let later = space.pod(
            &format!("later-{}", signal as i32),
            json!({"nodeName": node.name(), "containers": [{"args": ["echo", "hello"]}]}),
        );
        later.wait_phase("Succeeded");
        assert_unharmed(&pod, &before);
    }
    pod.delete();
}

fn a_drained_node_is_empty(kind: Kind) {
    let (_guard, node) = Cluster::shared().spare();
    let space = Space::new(kind);
    let template = space.template(json!({
        "metadata": {"labels": {"app": "drained"}}, "restartPolicy": "Always",
        "nodeSelector": {"spare": "true"},
        "tolerations": [{"key": "spare", "operator": "Exists"}],
        "containers": [{"args": ["sleep", "1000"]}],
    }));
    space.create(
        "deployments",
        &json!({"metadata": {"name": "drained"}, "spec": {
            "replicas": 5, "selector": {"matchLabels": {"app": "drained"}}, "template": template,
        }}),
    );
    space.wait("all are available", "deployments/drained", |found| {
        found["status"]["availableReplicas"] == 5
    });
    let cluster = Cluster::shared();
    let selector = "--pod-selector=app=drained";
    cluster.kubectl(&["drain", node.name(), "--force", "--timeout=200s", selector]).success();
    let left =
        cluster.api().get(&format!("/api/v1/pods?fieldSelector=spec.nodeName={}", node.name()));
    let names = left["items"].as_array().into_iter().flatten();
    let names = names.filter(|pod| pod["metadata"]["namespace"] == space.name());
    assert_eq!(names.count(), 0, "{left:#}");
    cluster.kubectl(&["uncordon", node.name()]).success();
    space.wait("all are available again", "deployments/drained", |found| {
        found["status"]["availableReplicas"] == 5
    });
    space.api().delete(&space.path("deployments/drained"));
    wait_until("all are gone", PATIENCE, || space.list("pods", "app=drained").is_empty());
}

/// What pods leave on a node: processes, mounts, network namespaces, sockets, cgroups, containers.
fn traces(node: &Node) -> BTreeSet<String> {
    let cgroup = format!("*/{}/*", node.name());
    let script = format!(
        "ps -eo pid=,args= | grep -E 'containerd-shim|/pause|/kit|wherry' | grep -v grep | sed 's/^/process /'
         awk '{{ print \"mount\", $5 }}' /proc/self/mountinfo | grep -v ' /var/lib/kubelet$'
         find /run/netns /run/containerd/s /run/containerd/io.containerd.runtime.v2.task -mindepth 1 -maxdepth 2
         find /var/lib/kubelet/pods -mindepth 1 -maxdepth 1
         find /sys/fs/cgroup -type d -path '{cgroup}' -path '*pod*'
         true"
    );
    let mut found: BTreeSet<String> = node.shell(&script).lines().map(str::to_owned).collect();
    found.extend(node.crictl("ps -aq").lines().map(|id| format!("container {id}")));
    found.extend(node.crictl("pods -q").lines().map(|id| format!("pod {id}")));
    found
}

fn jobs_of_a_cron_job_leave_nothing_behind(kind: Kind) {
    let (_guard, node) = Cluster::shared().spare();
    wait_until("the node is empty", PATIENCE, || node.crictl("pods -q").is_empty());
    let before = traces(node);
    let space = Space::new(kind);
    let pods = if kind == Kind::Wasm { 300 } else { 60 };
    let container = json!({"args": ["echo", "hello"]});
    let template = space.template(json!({"nodeName": node.name(), "containers": [container]}));
    space.create(
        "cronjobs",
        &json!({"metadata": {"name": "churn"}, "spec": {
            // Each job is started by hand, as waiting for the minute takes too long.
            "schedule": "0 0 1 1 *", "suspend": true,
            "jobTemplate": {"spec": {
                "completions": pods / 3, "parallelism": 20, "backoffLimit": 0,
                "ttlSecondsAfterFinished": 0, "template": template,
            }},
        }}),
    );
    for number in 1..=3 {
        let (name, namespace) = (format!("churn-{number}"), space.name());
        let words = ["create", "job", &name, "--from=cronjob/churn", "--namespace", namespace];
        Cluster::shared().kubectl(&words).success();
    }
    wait_until("all jobs have ended and are deleted", PATIENCE, || {
        let jobs = space.list("jobs", "");
        assert!(jobs.iter().all(|job| job["status"]["failed"].is_null()), "{jobs:#?}");
        jobs.is_empty() && space.list("pods", "").is_empty()
    });
    let mut new = BTreeSet::new();
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE {
        new = traces(node).difference(&before).cloned().collect();
        if new.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    panic!("left behind: {new:#?}");
}

wherry_k8s::on_both!(
    pods_outlive_containerd,
    a_container_with_open_input_outlives_containerd,
    pods_outlive_the_kubelet,
    a_drained_node_is_empty,
    jobs_of_a_cron_job_leave_nothing_behind,
);
