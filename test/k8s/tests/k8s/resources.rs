//! Limits, their changes, and what a node says of its containers' use.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wherry_k8s::pod::{state, status};
use wherry_k8s::{Kind, PATIENCE, Pod, Space};
use wherry_testing::wait_until;

/// What a file of a container's cgroup says, by its names in version 1 and in version 2; `up`
/// levels above it.
fn cgroup_file(pod: &Pod<'_>, up: usize, v1: &str, v2: &str) -> String {
    let id = status(&pod.get(), "main")["containerID"].clone();
    let node = pod.node();
    let pid = node.pid_of(id.as_str().expect("a container has an id"));
    let above = "/..".repeat(up);
    let (controller, file) = v1.split_once('/').expect("CONTROLLER/FILE");
    // The path is relative to the hierarchy's mount on either version.
    node.shell(&format!(
        "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
             cat /sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup){above}/{v2}
         else
             cat /sys/fs/cgroup/{controller}$(sed -nE 's/^[0-9]+:([a-z,_]*,)?{controller}(,[a-z,_]*)?://p' /proc/{pid}/cgroup){above}/{file}
         fi"
    ))
}

fn memory_limit(pod: &Pod<'_>, up: usize) -> u64 {
    let text = cgroup_file(pod, up, "memory/memory.limit_in_bytes", "memory.max");
    text.trim().parse().unwrap_or(u64::MAX)
}

const MIB: u64 = 1 << 20;

fn too_much_memory_kills_one_container_of_two(kind: Kind) {
    let space = Space::new(kind);
    let limit = json!({"limits": {"memory": "64Mi"}});
    let pod = space.pod(
        "hungry",
        json!({"containers": [
            {"args": ["sleep", "1000"], "resources": limit},
            {"name": "hog", "args": ["alloc", "500"], "resources": limit},
        ]}),
    );
    let ended = pod.wait_ended("hog");
    assert_eq!(ended["reason"], "OOMKilled", "{ended:#}");
    assert_eq!(ended["exitCode"], 137, "{ended:#}");
    let pod = pod.get();
    assert!(!state(&pod, "main")["running"].is_null(), "the other one runs: {:#}", pod["status"]);
}

fn limits_change_in_place_up_and_down(kind: Kind) {
    let space = Space::new(kind);
    let of = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let both =
        |cpu: &str, memory: &str| json!({"requests": of(cpu, memory), "limits": of(cpu, memory)});
    let container = json!({"args": ["sleep", "1000"], "resources": both("100m", "64Mi")});
    let pod = space.pod("resized", json!({"containers": [container]}));
    pod.wait_ready();
    assert_eq!(memory_limit(&pod, 0), 64 * MIB);
    for (cpu, memory, bytes, quota) in
        [("200m", "128Mi", 128, "20000"), ("50m", "96Mi", 96, "5000")]
    {
        // A merge patch would replace the list: the kubectl way is a strategic one.
        let patch =
            json!({"spec": {"containers": [{"name": "main", "resources": both(cpu, memory)}]}});
        let text = patch.to_string();
        let words = ["patch", "pod", pod.name(), "--subresource=resize", "--patch", &text];
        wherry_k8s::Cluster::shared().kubectl(&pod.words(&words)).success();
        wait_until(&format!("the limits are {cpu} and {memory}"), PATIENCE, || {
            let now = cgroup_file(&pod, 0, "cpu/cpu.cfs_quota_us", "cpu.max");
            memory_limit(&pod, 0) == bytes * MIB && now.split_whitespace().next() == Some(quota)
        });
        pod.wait("its new limits", |pod| {
            status(pod, "main")["resources"]["limits"]["memory"] == memory
        });
    }
    assert_eq!(status(&pod.get(), "main")["restartCount"], 0);
}

fn a_limit_of_the_pod_holds_for_all_its_containers(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "whole",
        json!({
            "resources": {"limits": {"memory": "100Mi", "cpu": "500m"}},
            "containers": [
                {"args": ["sleep", "1000"]},
                {"name": "hog", "args": ["alloc", "500"]},
            ],
        }),
    );
    let ended = pod.wait_ended("hog");
    assert_eq!(ended["exitCode"], 137, "{ended:#}");
    assert_eq!(memory_limit(&pod, 1), 100 * MIB);
}

/// What the node says of the pod's container.
fn summary(pod: &Pod<'_>) -> Option<Value> {
    let space = pod.get()["metadata"]["namespace"].clone();
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", pod.node().name());
    let all = wherry_k8s::Cluster::shared().api().find(&path)?;
    let pods = all["pods"].as_array()?;
    let found = pods.iter().find(|found| {
        found["podRef"]["name"] == pod.name() && found["podRef"]["namespace"] == space
    })?;
    Some(found["containers"].as_array()?.first()?.clone())
}

fn close(said: u64, real: u64) -> bool {
    said.abs_diff(real) * 10 <= real
}

fn the_nodes_summary_has_the_memory_of_the_cgroup(kind: Kind) {
    let space = Space::new(kind);
    let container = json!({"args": ["alloc", "50"], "stdin": true});
    let pod = space.pod("memory", json!({"containers": [container]}));
    pod.wait_log("main", "ready");
    let mut seen = (0, 0);
    wait_until("the summary's memory is within 10 % of the cgroup's", PATIENCE, || {
        let said = summary(&pod).and_then(|found| found["memory"]["workingSetBytes"].as_u64());
        let stat = cgroup_file(&pod, 0, "memory/memory.stat", "memory.stat");
        let value = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let used = cgroup_file(&pod, 0, "memory/memory.usage_in_bytes", "memory.current");
        let inactive = value("total_inactive_file ").max(value("inactive_file "));
        let real = used.trim().parse::<u64>().expect("a number") - inactive;
        seen = (said.unwrap_or(0), real);
        close(seen.0, seen.1)
    });
    assert!(seen.0 > 50 * MIB, "{seen:?}");
}

fn the_nodes_summary_has_the_processor_time_of_the_cgroup(kind: Kind) {
    let space = Space::new(kind);
    let limit = json!({"limits": {"cpu": "100m"}});
    let container = json!({"args": ["spin"], "resources": limit});
    let pod = space.pod("spin", json!({"containers": [container]}));
    pod.wait_ready();
    let used = || {
        let text = cgroup_file(&pod, 0, "cpuacct/cpuacct.usage", "cpu.stat");
        // Version 2 has microseconds, in a separate line.
        match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
            Some(micro) => micro.trim().parse::<u64>().expect("a number") * 1000,
            None => text.trim().parse::<u64>().expect("a number"),
        }
    };
    wait_until("the summary's rate is within 10 % of the cgroup's", PATIENCE, || {
        let (before, start) = (used(), Instant::now());
        std::thread::sleep(Duration::from_secs(5));
        let (after, took) = (used(), start.elapsed());
        let real = (after - before) * 1000 / u64::try_from(took.as_millis()).expect("not long");
        let said = summary(&pod).and_then(|found| found["cpu"]["usageNanoCores"].as_u64());
        said.is_some_and(|said| close(said, real))
    });
}

fn a_pod_that_writes_too_much_is_evicted(kind: Kind) {
    let space = Space::new(kind);
    let limits = json!({"limits": {"ephemeral-storage": "1Mi"}});
    let args = ["do", "spew 5000000", "sleep 1000"];
    let container = json!({"args": args, "resources": limits});
    let pod = space.pod("writer", json!({"containers": [container]}));
    let ended = pod.wait_phase("Failed");
    assert_eq!(ended["status"]["reason"], "Evicted", "{:#}", ended["status"]);
}

fn an_autoscaler_sees_the_processor_time(kind: Kind) {
    let space = Space::new(kind);
    wherry_k8s::Cluster::shared().serve_metrics();
    // Each pod uses all of its request, and an autoscaler that wants half of it makes as many as it
    // may.
    let cpu = json!({"cpu": "100m"});
    let container = json!({"args": ["spin"], "resources": {"requests": cpu, "limits": cpu}});
    let template = space.template(json!({
        "metadata": {"labels": {"app": "busy"}}, "restartPolicy": "Always",
        "containers": [container],
    }));
    space.create(
        "deployments",
        &json!({"metadata": {"name": "busy"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "busy"}}, "template": template,
        }}),
    );
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"});
    space.create(
        "horizontalpodautoscalers",
        &json!({"metadata": {"name": "busy"}, "spec": {
            "minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": reference,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        }}),
    );
    space.wait("three are available", "deployments/busy", |found| {
        found["status"]["availableReplicas"] == 3
    });
    space.wait("its figure is within 10 %", "horizontalpodautoscalers/busy", |found| {
        let current = &found["status"]["currentMetrics"][0]["resource"]["current"];
        current["averageUtilization"].as_u64().is_some_and(|said| close(said, 100))
    });
}

wherry_k8s::on_both!(
    an_autoscaler_sees_the_processor_time,
    too_much_memory_kills_one_container_of_two,
    limits_change_in_place_up_and_down,
    a_limit_of_the_pod_holds_for_all_its_containers,
    the_nodes_summary_has_the_memory_of_the_cgroup,
    the_nodes_summary_has_the_processor_time_of_the_cgroup,
    a_pod_that_writes_too_much_is_evicted,
);
