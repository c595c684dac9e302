//! A pod of several containers: init containers, sidecars, shared folders and processes, debugging.

use serde_json::json;
use wherry_k8s::pod::{state, status};
use wherry_k8s::{Cluster, Kind, Sandboxer, Space, sandboxer};

fn init_containers_run_in_order_before_the_others(kind: Kind) {
    let space = Space::new(kind);
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    let init =
        |name: &str, args: &[&str]| json!({"name": name, "args": args, "volumeMounts": mount});
    let printed = space.output(
        "init",
        json!({
            "initContainers": [
                init("first", &["mkdir", "/data/folder"]),
                init("second", &["write", "/data/folder/file", "one after another"]),
            ],
            "containers": [{"args": ["read", "/data/folder/file"], "volumeMounts": mount}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }),
    );
    assert_eq!(printed, "one after another");
}

fn an_init_container_that_fails_keeps_the_others_from_starting(kind: Kind) {
    let space = Space::new(kind);
    let fields = json!({
        "initContainers": [{"name": "first", "args": ["exit", "3"]}],
        "containers": [{"args": ["echo", "never"]}],
    });
    let pod = space.pod("init", fields);
    let failed = pod.wait_phase("Failed");
    assert_eq!(state(&failed, "first")["terminated"]["exitCode"], 3, "{failed:#}");
    assert!(state(&failed, "main")["terminated"].is_null(), "{failed:#}");
}

fn sidecars_start_first_and_end_with_the_pod(kind: Kind) {
    let space = Space::new(kind);
    let script = "echo beside; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let pod = space.pod(
        "sidecars",
        json!({
            "initContainers": [
                {
                    "name": "native", "image": "wherry/busybox:1", "restartPolicy": "Always",
                    "command": ["sh", "-c", script],
                },
                {"name": "guest", "args": ["tick", "200"], "restartPolicy": "Always"},
            ],
            "containers": [{"args": ["sleep", "2"]}],
        }),
    );
    pod.wait_log("native", "beside");
    pod.wait_log("guest", "3");
    let ended = pod.wait_phase("Succeeded");
    for sidecar in ["native", "guest"] {
        let ended = pod.wait_ended(sidecar);
        assert!(!ended.is_null(), "{ended:#}");
    }
    assert_eq!(state(&ended, "main")["terminated"]["exitCode"], 0);
}

fn a_sidecar_that_ends_is_restarted(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "sidecar",
        json!({
            "initContainers": [{"name": "guest", "args": ["sleep", "1"], "restartPolicy": "Always"}],
            "containers": [{"args": ["sleep", "1000"]}],
        }),
    );
    pod.wait_restarts("guest", 2);
    assert_eq!(status(&pod.get(), "main")["restartCount"], 0);
}

fn containers_share_a_folder_with_native_ones(kind: Kind) {
    let space = Space::new(kind);
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    let script = "until [ -s /data/greeting ]; do sleep 0.1; done; cat /data/greeting";
    let pod = space.pod(
        "shared",
        json!({
            "containers": [
                {"args": ["write", "/data/greeting", "from the neighbour"], "volumeMounts": mount},
                {
                    "name": "reader", "image": "wherry/busybox:1", "volumeMounts": mount,
                    "command": ["sh", "-c", script],
                },
            ],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        }),
    );
    pod.wait_phase("Succeeded");
    assert_eq!(pod.log("reader"), "from the neighbour");
}

fn containers_see_each_others_processes_where_the_pod_says_so(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "processes",
        json!({
            "shareProcessNamespace": true,
            "containers": [
                {"args": ["sleep", "1000"]},
                {"name": "native", "image": "wherry/busybox:1", "command": ["sleep", "1000"]},
            ],
        }),
    );
    pod.wait_ready();
    let printed = pod.exec("native", &["ps"]).success();
    let by_shim = kind == Kind::Wasm && sandboxer() == Sandboxer::Shim;
    let first = if by_shim { "wherry-pod" } else { "/pause" };
    assert!(printed.contains(first), "{printed}");
    assert!(printed.contains("kit"), "{printed}");
}

fn a_container_is_restarted_among_shared_processes(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "processes",
        json!({
            "shareProcessNamespace": true, "restartPolicy": "Always",
            "containers": [
                {"args": ["sleep", "1"]},
                {"name": "native", "image": "wherry/busybox:1", "command": ["sleep", "1"]},
            ],
        }),
    );
    pod.wait_restarts("main", 2);
    pod.wait_restarts("native", 2);
}

fn a_debug_container_sees_the_target(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.kit("debugged", &["sleep", "1000"]);
    pod.wait_ready();
    let words = [
        "debug",
        pod.name(),
        "--image=wherry/busybox:1",
        "--target=main",
        "--container=debugger",
        "--",
        "sh",
        "-c",
        "ps; echo debugged",
    ];
    Cluster::shared().kubectl(&pod.words(&words)).success();
    pod.wait_log("debugger", "debugged");
    let printed = pod.log("debugger");
    assert!(printed.contains("kit"), "{printed}");
}

wherry_k8s::on_both!(
    init_containers_run_in_order_before_the_others,
    an_init_container_that_fails_keeps_the_others_from_starting,
    sidecars_start_first_and_end_with_the_pod,
    a_sidecar_that_ends_is_restarted,
    containers_share_a_folder_with_native_ones,
    containers_see_each_others_processes_where_the_pod_says_so,
    a_container_is_restarted_among_shared_processes,
    a_debug_container_sees_the_target,
);
