//! How mounts of the node and of a container reach each other.

use serde_json::{Value, json};
use wherry_k8s::{Cluster, Kind, Space};

/// The fields of a pod on node-1 with a folder of the node at /host.
fn with_host_folder(folder: &str, mount: Value, container: Value) -> Value {
    let mut container = container;
    let mut mounted = json!({"name": "host", "mountPath": "/host"});
    for (key, value) in mount.as_object().into_iter().flatten() {
        mounted[key] = value.clone();
    }
    container["volumeMounts"] = json!([mounted]);
    json!({
        "nodeName": Cluster::shared().nodes()[0].name(),
        "containers": [container],
        "volumes": [{"name": "host", "hostPath": {"path": folder}}],
    })
}

/// Makes a folder on node-1, with a mount below it that may be unmounted again.
fn host_folder(space: &Space) -> String {
    let folder = format!("/var/lib/kubelet/{}", space.name());
    Cluster::shared().nodes()[0].shell(&format!("mkdir -p {folder}/inner"));
    folder
}

fn mounts_of_the_node_reach_the_container(kind: Kind) {
    let space = Space::new(kind);
    let (folder, node) = (host_folder(&space), &Cluster::shared().nodes()[0]);
    let mount = json!({"mountPropagation": "HostToContainer"});
    let fields = with_host_folder(&folder, mount, json!({"args": ["sleep", "1000"]}));
    let pod = space.pod("below", fields);
    pod.wait_ready();
    node.shell(&format!("mount -t tmpfs none {folder}/inner && echo late > {folder}/inner/file"));
    let outcome = pod.exec("main", &["/kit", "read", "/host/inner/file"]);
    node.shell(&format!("umount {folder}/inner"));
    assert_eq!(outcome.success(), "late\n");
}

fn mounts_of_the_node_stay_out_unless_asked_for(kind: Kind) {
    let space = Space::new(kind);
    let (folder, node) = (host_folder(&space), &Cluster::shared().nodes()[0]);
    let fields = with_host_folder(&folder, json!({}), json!({"args": ["sleep", "1000"]}));
    let pod = space.pod("apart", fields);
    pod.wait_ready();
    node.shell(&format!("mount -t tmpfs none {folder}/inner && echo late > {folder}/inner/file"));
    let outcome = pod.exec("main", &["/kit", "read", "/host/inner/file"]);
    node.shell(&format!("umount {folder}/inner"));
    outcome.failure();
}

fn mounts_of_a_privileged_container_reach_the_node(kind: Kind) {
    let space = Space::new(kind);
    let (folder, node) = (host_folder(&space), &Cluster::shared().nodes()[0]);
    let script = "mount -t tmpfs none /host/inner && echo out > /host/inner/file && \
                  echo mounted && sleep 1000";
    let container = json!({
        "image": "wherry/busybox:1", "command": ["sh", "-c", script],
        "securityContext": {"privileged": true},
    });
    let mount = json!({"mountPropagation": "Bidirectional"});
    let pod = space.pod("above", with_host_folder(&folder, mount, container));
    pod.wait_log("main", "mounted");
    let printed = node.shell(&format!("cat {folder}/inner/file; umount {folder}/inner || true"));
    assert_eq!(printed, "out\n");
}

fn a_read_only_mount_is_so_below_other_mounts(kind: Kind) {
    let space = Space::new(kind);
    let (folder, node) = (host_folder(&space), &Cluster::shared().nodes()[0]);
    node.shell(&format!("mount -t tmpfs none {folder}/inner && chmod 777 {folder}/inner"));
    let mount = json!({"readOnly": true, "recursiveReadOnly": "Enabled"});
    let args = ["do", "write /host/file no", "write /host/inner/file no"];
    let mut fields = with_host_folder(&folder, mount, json!({"args": args}));
    if kind == Kind::Wasm {
        // The kubelet needs a handler that lists its features.
        fields["runtimeClassName"] = json!("wasm-features");
    }
    let pod = space.pod("read-only", fields);
    let ended = pod.wait_ended("main");
    node.shell(&format!("umount {folder}/inner"));
    assert_eq!(ended["exitCode"], 2, "both writes fail: {}", pod.log("main"));
}

wherry_k8s::on_both!(
    mounts_of_the_node_reach_the_container,
    mounts_of_the_node_stay_out_unless_asked_for,
    mounts_of_a_privileged_container_reach_the_node,
    a_read_only_mount_is_so_below_other_mounts,
);
