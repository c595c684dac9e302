//! The chart on nodes without Wherry: installation, upgrade, removal.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use wherry_k8s::pod::status;
use wherry_k8s::{Cluster, Kind, Node, PATIENCE, Pod, Space, sandboxer};
use wherry_testing::{Outcome, call, repository, wait_until};

const NAMESPACE: &str = "wherry-system";
/// How the installer restarts containerd on a machine without systemd: see
/// `Node::start_containerd`.
const RESTART: &str = "old=$(cat /run/containerd.pid); kill $old; \
    while [ \"$(cat /run/containerd.pid)\" = $old ]; do sleep 0.1; done";

/// One test at a time has the two nodes.
pub(crate) fn nodes() -> (MutexGuard<'static, ()>, &'static [Node]) {
    static LENT: Mutex<()> = Mutex::new(());
    let guard = LENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cluster = Cluster::shared();
    let archive = std::env::var_os("WHERRY_NODE_IMAGE").map(PathBuf::from);
    let archive = archive.expect("WHERRY_NODE_IMAGE is the archive that `make image` wrote");
    cluster.add_archive("docker.io/wherry/node:test", &archive);
    (guard, cluster.bare_nodes())
}

fn values(engines: &[&str]) -> String {
    let enabled = |name: &str| json!({"enabled": engines.contains(&name)});
    json!({
        "image": {"repository": "docker.io/wherry/node", "tag": "test"},
        "engines": {
            "wasmtime": enabled("wasmtime"), "wamr": enabled("wamr"), "wasmedge": {"enabled": false},
        },
        "containerd": {"restartCommand": RESTART, "sandboxer": sandboxer().name()},
        "nodeSelector": {"bare": "true"},
        "runtimeClasses": {"tolerations": [{"operator": "Exists"}]},
    })
    .to_string()
}

/// Runs Helm in the release's namespace, with values as its standard input.
fn helm(words: &[&str], values: &str) -> Outcome {
    let script = repository().join("test/setup/helm.sh");
    let paths = call(std::process::Command::new(script), None).success();
    let helm = PathBuf::from(paths.lines().last().expect("a path"));
    let mut command = Cluster::shared().client_command(&helm);
    command.args(["--namespace", NAMESPACE]).args(words);
    if !values.is_empty() {
        command.args(["--values", "-"]);
    }
    call(command, Some(values.as_bytes()))
}

fn chart() -> String {
    let chart = std::env::var_os("WHERRY_CHART").map(PathBuf::from);
    chart.unwrap_or_else(|| repository().join("charts/wherry")).display().to_string()
}

fn make_namespace() {
    let label = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace = json!({"metadata": {"name": NAMESPACE, "labels": label}});
    let answer = Cluster::shared().api().request("POST", "/api/v1/namespaces", Some(&namespace));
    assert!(matches!(answer.status, 201 | 409), "{}", answer.text());
}

/// Every file that the installer might touch, with its digest.
fn picture(node: &Node) -> String {
    node.shell(
        "find /etc/containerd /etc/systemd /usr/local/bin /opt/wherry -type f -o -type l 2> /dev/null \
         | sort | xargs sha256sum",
    )
}

fn labels(node: &Node) -> Value {
    let node = Cluster::shared().api().get(&format!("/api/v1/nodes/{}", node.name()));
    node["metadata"]["labels"].clone()
}

/// Installs the chart with these engines on the nodes.
pub(crate) fn install(engines: &[&str]) {
    make_namespace();
    helm(&["install", "wherry", &chart()], &values(engines)).success();
    wait_rolled_out();
}

fn wait_rolled_out() {
    let cluster = Cluster::shared();
    let words =
        ["--namespace", NAMESPACE, "rollout", "status", "daemonset/wherry", "--timeout=240s"];
    let outcome = cluster.kubectl(&words);
    let installer = ["logs", "--selector=app.kubernetes.io/component=installer", "--prefix"];
    let logs = cluster.kubectl(&[&["--namespace", NAMESPACE][..], &installer].concat());
    assert_eq!(outcome.code, 0, "{outcome}\n{logs}");
}

/// Takes the runtimes off the nodes, and removes the chart.
pub(crate) fn uninstall() {
    helm(&["upgrade", "wherry", &chart(), "--reuse-values", "--set", "mode=uninstall"], "")
        .success();
    wait_rolled_out();
    helm(&["uninstall", "wherry", "--wait"], "").success();
    // Pods that have ended are removed without the runtime.
    let space = Space::existing(NAMESPACE, Kind::Runc);
    for pod in space.list("pods", "app.kubernetes.io/component=test") {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        space.api().delete(&space.path(&format!("pods/{name}")));
    }
    wait_until("the pods are gone", PATIENCE, || space.list("pods", "").is_empty());
}

#[test]
fn the_chart_installs_upgrades_under_pods_and_leaves_the_nodes_as_they_were() {
    let (_guard, nodes) = nodes();
    let before: Vec<String> = nodes.iter().map(picture).collect();

    install(&["wasmtime"]);
    for node in nodes {
        assert_eq!(labels(node)["wherry/wasmtime"], "true", "{}", node.name());
    }
    let class = Cluster::shared().api().get("/apis/node.k8s.io/v1/runtimeclasses/wasmtime");
    assert_eq!(class["handler"], "wasmtime", "{class:#}");
    helm(&["test", "wherry", "--logs"], "").success();

    let space = Space::new(Kind::Wasm);
    let template = space.template(json!({
        "metadata": {"labels": {"app": "steady"}}, "restartPolicy": "Always",
        "runtimeClassName": "wasmtime", "containers": [{"args": ["sleep", "100000"]}],
    }));
    let deployment = json!({"metadata": {"name": "steady"}, "spec": {
        "replicas": 20, "selector": {"matchLabels": {"app": "steady"}}, "template": template,
    }});
    space.create("deployments", &deployment);
    space.wait("all are available", "deployments/steady", |found| {
        found["status"]["availableReplicas"] == 20
    });
    let containers = || {
        let pods = space.list("pods", "app=steady");
        let ids = pods.iter().map(|pod| status(pod, "main")["containerID"].to_string());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    let running = containers();

    // Another engine changes containerd's configuration, and containerd is restarted.
    helm(&["upgrade", "wherry", &chart()], &values(&["wasmtime", "wamr"])).success();
    wait_rolled_out();
    for node in nodes {
        assert_eq!(labels(node)["wherry/wamr"], "true", "{}", node.name());
    }
    assert_eq!(containers(), running, "no pod was restarted");
    space.api().delete(&space.path("deployments/steady"));
    wait_until("the pods are gone", PATIENCE, || space.list("pods", "app=steady").is_empty());

    uninstall();
    for (node, before) in nodes.iter().zip(before) {
        assert_eq!(picture(node), before, "{}", node.name());
        assert!(labels(node)["wherry/wasmtime"].is_null(), "{:#}", labels(node));
        assert!(node.crictl("info").contains("runc"), "{}", node.name());
    }
}

#[test]
fn the_chart_says_what_is_wrong_with_a_node_and_leaves_it_alone() {
    let (_guard, nodes) = nodes();
    make_namespace();
    let (node, config) = (&nodes[0], "/etc/containerd/config.toml");
    let good = node.shell(&format!("cat {config}"));
    let pid = node.shell("cat /run/containerd.pid");
    node.write(config, &format!("{good}\nbroken = [\n"));
    let broken = picture(node);

    helm(&["install", "wherry", &chart()], &values(&["wasmtime"])).success();
    let space = Space::existing(NAMESPACE, Kind::Runc);
    let selector = "app.kubernetes.io/component=installer";
    let mut log = String::new();
    wait_until("the installer has failed on the node, and named the file", PATIENCE, || {
        let pods = space.list("pods", selector);
        let Some(pod) = pods.iter().find(|pod| pod["spec"]["nodeName"] == node.name()) else {
            return false;
        };
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let tried = status(pod, "install")["restartCount"].as_u64() >= Some(1);
        if tried {
            log = Pod::new(&space, name).log("install");
        }
        // The log may be that of an attempt in progress.
        tried && log.contains(config)
    });
    assert!(
        log.contains(&format!("line {}", good.lines().count() + 2)) || log.contains("TOML"),
        "{log}"
    );
    assert_eq!(picture(node), broken, "the node is as it was");
    assert_eq!(node.shell("cat /run/containerd.pid"), pid, "containerd was not restarted");
    assert!(labels(node)["wherry/wasmtime"].is_null(), "{:#}", labels(node));

    node.write(config, &good);
    wait_rolled_out();
    assert_eq!(labels(node)["wherry/wasmtime"], "true");
    uninstall();
}
