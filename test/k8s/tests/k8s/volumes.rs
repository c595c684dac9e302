//! Volumes: contents, permissions, and changes while a pod runs.

use serde_json::json;
use wherry_k8s::{Kind, PATIENCE, Pod, Space};
use wherry_testing::wait_until;

/// Waits until a file in the container has this content.
#[track_caller]
fn wait_content(pod: &Pod<'_>, path: &str, content: &str) {
    wait_until(&format!("{path} is {content:?}"), PATIENCE, || {
        let outcome = pod.exec("main", &["/kit", "read", path]);
        outcome.code == 0 && outcome.out() == content
    });
}

fn configuration_and_secrets_change_while_a_pod_runs(kind: Kind) {
    let space = Space::new(kind);
    let object = |value: &str| json!({"metadata": {"name": "settings"}, "data": {"key": value}});
    space.create("configmaps", &object("one"));
    space.create("secrets", &json!({"metadata": {"name": "hidden"}, "stringData": {"key": "uno"}}));
    let pod = space.pod(
        "settings",
        json!({
            "containers": [{
                "args": ["do", "show", "sleep 1000"],
                "env": [{"name": "KEY", "valueFrom":
                    {"configMapKeyRef": {"name": "settings", "key": "key"}}}],
                "volumeMounts": [
                    {"name": "settings", "mountPath": "/settings"},
                    {"name": "hidden", "mountPath": "/hidden"},
                ],
            }],
            "volumes": [
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "hidden", "secret": {"secretName": "hidden"}},
            ],
        }),
    );
    pod.wait_log("main", "env KEY=one\n");
    wait_content(&pod, "/settings/key", "one");
    wait_content(&pod, "/hidden/key", "uno");
    let api = space.api();
    api.patch(&space.path("configmaps/settings"), &json!({"data": {"key": "two"}}));
    api.patch(&space.path("secrets/hidden"), &json!({"stringData": {"key": "due"}}));
    wait_content(&pod, "/settings/key", "two");
    wait_content(&pod, "/hidden/key", "due");
}

fn a_projected_token_is_the_pods_own(kind: Kind) {
    let space = Space::new(kind);
    let source = json!({"serviceAccountToken": {"path": "token", "audience": "tests"}});
    let token = space.output(
        "token",
        json!({
            "containers": [{
                "args": ["read", "/token/token"],
                "volumeMounts": [{"name": "token", "mountPath": "/token"}],
            }],
            "volumes": [{"name": "token", "projected": {"sources": [source]}}],
        }),
    );
    let review = json!({"spec": {"token": token, "audiences": ["tests"]}});
    let answer = space.api().create("/apis/authentication.k8s.io/v1/tokenreviews", &review);
    assert_eq!(answer["status"]["authenticated"], true, "{answer:#}");
    let pod = &answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(pod[0], "token", "{answer:#}");
}

fn the_downward_api_says_what_the_pod_is(kind: Kind) {
    let space = Space::new(kind);
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let limit =
        json!({"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}});
    let pod = space.pod(
        "described",
        json!({
            "metadata": {"labels": {"colour": "green"}},
            "containers": [{
                "args": ["do", "show", "sleep 1000"],
                "env": [field("NAME", "metadata.name"), field("ADDRESS", "status.podIP"), limit],
                "resources": {"limits": {"memory": "64Mi"}},
                "volumeMounts": [{"name": "info", "mountPath": "/info"}],
            }],
            "volumes": [{"name": "info", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
        }),
    );
    pod.wait_ready();
    pod.wait_log("main", "ready");
    let log = pod.log("main");
    assert!(log.contains("env NAME=described\n"), "{log}");
    assert!(log.contains(&format!("env ADDRESS={}\n", pod.address())), "{log}");
    assert!(log.contains("env LIMIT=67108864\n"), "{log}");
    wait_content(&pod, "/info/labels", "colour=\"green\"");
    pod.patch("", &json!({"metadata": {"labels": {"colour": "blue"}}}));
    wait_content(&pod, "/info/labels", "colour=\"blue\"");
}

fn a_volume_belongs_to_the_group_of_the_pod(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod(
        "group",
        json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2345},
            "containers": [{
                "args": ["do", "write /data/file text", "sleep 1000"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }),
    );
    pod.wait_log("main", "ready");
    let uid = pod.get()["metadata"]["uid"].as_str().expect("a pod has one").to_owned();
    let file = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/data/file");
    assert_eq!(pod.node().shell(&format!("stat -c '%u %g' {file}")), "1000 2345\n");
}

fn an_image_is_a_volume(kind: Kind) {
    let space = Space::new(kind);
    let printed = space.output(
        "image",
        json!({
            "containers": [{
                "args": ["read", "/data/greeting"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "image": {"reference": "wherry/data:1"}}],
        }),
    );
    assert_eq!(printed, "hello from an image\n");
}

fn a_file_of_a_volume_is_mounted_alone(kind: Kind) {
    let space = Space::new(kind);
    let data = json!({"wanted": "this one", "other": "that one"});
    space.create("configmaps", &json!({"metadata": {"name": "files"}, "data": data}));
    let mount = json!({
        "name": "files", "mountPath": "/etc/wanted.conf", "subPath": "wanted", "readOnly": true,
    });
    let printed = space.output(
        "subpath",
        json!({
            "containers": [{"args": ["read", "/etc/wanted.conf"], "volumeMounts": [mount]}],
            "volumes": [{"name": "files", "configMap": {"name": "files"}}],
        }),
    );
    assert_eq!(printed, "this one");
}

wherry_k8s::on_both!(
    configuration_and_secrets_change_while_a_pod_runs,
    a_projected_token_is_the_pods_own,
    the_downward_api_says_what_the_pod_is,
    a_volume_belongs_to_the_group_of_the_pod,
    an_image_is_a_volume,
    a_file_of_a_volume_is_mounted_alone,
);
