//! Pods' networks.

use serde_json::json;
use wherry_k8s::{Cluster, Kind, PATIENCE, Space};
use wherry_testing::wait_until;

/// Waits until "ok" is answered at an address.
#[track_caller]
fn wait_ok(address: &str) {
    wait_until(&format!("an answer of {address}"), PATIENCE, || {
        let answer = Cluster::shared().http_get(address, "/");
        answer.is_some_and(|answer| answer.ends_with("ok\n"))
    });
}

fn pods_on_two_nodes_reach_each_other(kind: Kind) {
    let space = Space::new(kind);
    let nodes = Cluster::shared().nodes();
    let server =
        space.pod("server", json!({"nodeName": nodes[0].name(), "containers": [kind.web(8080)]}));
    server.wait_ready();
    let address = server.address();
    wait_ok(&format!("{address}:8080"));
    let url = format!("http://{address}:8080/");
    let client = match kind {
        Kind::Wasm => json!({"image": "wherry/net:wasm", "args": ["tcp-get", address, "8080"]}),
        Kind::Runc => json!({"image": "wherry/busybox:1", "command": ["wget", "-qO-", url]}),
    };
    let fields = json!({"nodeName": nodes[1].name(), "containers": [client]});
    let printed = space.output("client", fields);
    assert!(printed.ends_with("ok\n"), "{printed}");
}

fn a_pod_has_the_nodes_network_where_it_says_so(kind: Kind) {
    let space = Space::new(kind);
    let port = if kind == Kind::Wasm { 18081 } else { 18082 };
    let fields = json!({"hostNetwork": true, "containers": [kind.web(port)]});
    let pod = space.pod("host", fields);
    pod.wait_ready();
    assert_eq!(pod.address(), pod.node().address());
    wait_ok(&format!("{}:{port}", pod.address()));
}

fn a_port_of_the_node_leads_into_the_pod(kind: Kind) {
    let space = Space::new(kind);
    let port = if kind == Kind::Wasm { 18091 } else { 18092 };
    let mut web = kind.web(8080);
    web["ports"] = json!([{"containerPort": 8080, "hostPort": port}]);
    let pod = space.pod("port", json!({"containers": [web]}));
    pod.wait_ready();
    wait_ok(&format!("{}:{port}", pod.node().address()));
}

wherry_k8s::on_both!(
    pods_on_two_nodes_reach_each_other,
    a_pod_has_the_nodes_network_where_it_says_so,
    a_port_of_the_node_leads_into_the_pod,
);
