//! The wire between the nodes: a bridge in the control plane's namespace, and a pair of interfaces
//! for each node.

use crate::machine::Machine;
use wherry_testing::call;

/// The control plane's address.
pub(crate) const HUB: &str = "10.70.0.1";

/// The address of the node with this number.
pub(crate) fn address(number: usize) -> String {
    format!("10.70.0.{}", 10 + number)
}

/// The addresses of the node's pods: enough for 500 at once.
pub(crate) fn pods(number: usize) -> String {
    format!("10.{}.0.0/22", 80 + number)
}

/// Connects a node to the bridge, with routes to the pods of the others by way of the control
/// plane's machine.
pub(crate) fn connect(hub: &Machine, node: &Machine, number: usize) {
    let (init, address, pods) = (node.init(), address(number), pods(number));
    let script = format!(
        "ip link add node{number} type veth peer name eth0 netns {init} && \
         ip link set node{number} master br0 up && ip route add {pods} via {address}"
    );
    // With the host's pids: `netns` takes one of them.
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", hub.init()));
    // A route needs the neighbour's network, which is there from the start; the interface comes up
    // on both sides.
    command.args(["sh", "-c", &script]);
    call(command, None).success();
    let script = format!(
        "ip addr add {address}/16 dev eth0 && ip link set eth0 up && ip route add default via {HUB}"
    );
    node.shell(&script).success();
}

/// The configuration of a node's network plugins.
pub(crate) fn cni(number: usize) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": pods(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}
