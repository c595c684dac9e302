//! The cluster that all tests of a run share.

use crate::machine::Machine;
use crate::node::{self, Node, Preparation};
use crate::registry::Registry;
use crate::{Api, PATIENCE, control, images, network, pki};
use serde_json::json;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use wherry_testing::{Outcome, Scope, call, wait_until};

/// How many nodes are configured by hand; others start when a test asks for them.
const NODES: usize = 2;
/// How many there may be: their names are in the kubelets' certificate.
const MOST: usize = 5;

/// A control plane with nodes. Everything ends with the test process, however that ends.
pub struct Cluster {
    scope: Scope,
    hub: Machine,
    api: Api,
    nodes: Vec<Node>,
    spare: OnceLock<Node>,
    bare: OnceLock<Vec<Node>>,
    lone: OnceLock<Vec<Node>>,
    registry: Registry,
    lent: Mutex<()>,
    programs: PathBuf,
    /// Puts the kernel's settings back.
    _keeper: Child,
}

impl Cluster {
    /// The one of this test run, started by the first test that asks.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        static TRIED: AtomicBool = AtomicBool::new(false);
        SHARED.get_or_init(|| {
            // Each test would wait in vain again.
            let before = TRIED.swap(true, Ordering::Relaxed);
            assert!(!before, "the cluster did not start: see the first test that failed");
            Cluster::start()
        })
    }

    fn start() -> Cluster {
        let programs = control::programs();
        let keeper = keep_settings();
        let scope = Scope::new("kubernetes");
        let root = scope.root().to_owned();
        let names = (1..=MOST).map(|number| (node::name(number), network::address(number)));
        pki::make(&root.join("pki"), &names.collect::<Vec<_>>());
        let hub = Machine::start(&root.join("hub"), include_str!("hub.sh"), &[]);
        let registry = Registry::start(&root.join("registry"), &hub);
        images::all().iter().for_each(|(name, image)| registry.add(name, image));
        let api = control::start(&hub, &programs, &root.join("pki"));
        let start =
            |number| Node::start(&hub, &root, number, scope.name(), &programs, Preparation::ByHand);
        let nodes: Vec<Node> = (1..=NODES).map(start).collect();
        let cluster = Cluster {
            scope,
            hub,
            api,
            nodes,
            spare: OnceLock::new(),
            bare: OnceLock::new(),
            lone: OnceLock::new(),
            registry,
            lent: Mutex::default(),
            programs,
            _keeper: keeper,
        };
        cluster.make_classes();
        cluster.nodes.iter().for_each(Node::start_kubelet);
        cluster.wait_ready(&cluster.nodes);
        cluster
    }

    /// The client of the API server.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The nodes that are configured by hand.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> &Node {
        let bare = self.bare.get().into_iter().flatten();
        let found = self.nodes.iter().chain(self.spare.get()).chain(bare);
        let mut found = found.filter(|node| node.name() == name);
        found.next().unwrap_or_else(|| panic!("unknown node {name}"))
    }

    /// One more node for a test that kills its daemons or counts its pods. No other test has
    /// it meanwhile, and nothing is scheduled there: the test's pods name the node.
    pub fn spare(&self) -> (MutexGuard<'_, ()>, &Node) {
        let guard = self.lent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let node = self.spare.get_or_init(|| {
            let node = self.start_node(NODES + 1, Preparation::ByHand);
            node.start_kubelet();
            self.wait_ready(std::slice::from_ref(&node));
            self.taint(&node, "spare");
            node
        });
        (guard, node)
    }

    /// Two more nodes without Wherry, with the label `bare`, tainted so that only what tolerates
    /// that runs there.
    pub fn bare_nodes(&self) -> &[Node] {
        self.bare.get_or_init(|| {
            let start = |number| self.start_node(number, Preparation::Bare);
            let nodes: Vec<Node> = (NODES + 2..=MOST).map(start).collect();
            nodes.iter().for_each(Node::start_kubelet);
            self.wait_ready(&nodes);
            nodes.iter().for_each(|node| self.taint(node, "bare"));
            nodes
        })
    }

    /// Two machines with a containerd and the images of critest, and without a kubelet: that would
    /// collect critest's containers.
    pub fn lone_nodes(&self) -> &[Node] {
        self.lone.get_or_init(|| {
            crate::critest::add_images(&self.registry);
            let start = |number| self.start_node(number, Preparation::ByHand);
            (MOST + 1..=MOST + 2).map(start).collect()
        })
    }

    fn start_node(&self, number: usize, preparation: Preparation) -> Node {
        let (root, scope) = (self.scope.root(), self.scope.name());
        Node::start(&self.hub, root, number, scope, &self.programs, preparation)
    }

    fn taint(&self, node: &Node, name: &str) {
        let taint = json!({"key": name, "effect": "NoSchedule"});
        let fields = json!({"metadata": {"labels": {name: "true"}}, "spec": {"taints": [taint]}});
        self.api.patch(&format!("/api/v1/nodes/{}", node.name()), &fields);
    }

    /// Starts the API that HorizontalPodAutoscalers ask, once, and waits until it is there.
    pub fn serve_metrics(&self) {
        static STARTED: std::sync::Once = std::sync::Once::new();
        STARTED.call_once(|| control::serve_metrics(&self.hub, &self.api));
    }

    /// What an HTTP server answers at an address like `10.81.0.5:80`, as seen from the control
    /// plane's machine; nothing without an answer.
    pub fn http_get(&self, address: &str, path: &str) -> Option<String> {
        let (address, path) = (address.to_owned(), path.to_owned());
        self.hub.in_network(move || {
            let address = address.parse().expect("an address");
            let limit = std::time::Duration::from_secs(10);
            let mut stream = std::net::TcpStream::connect_timeout(&address, limit).ok()?;
            stream.set_read_timeout(Some(limit)).ok()?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// The command of a client of the cluster, which reads KUBECONFIG, in the control plane's
    /// network.
    pub fn client_command(&self, program: &Path) -> Command {
        let root = self.scope.root();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.hub.init())).arg(program);
        // With its caches: a run must not depend on an earlier one.
        command.env("KUBECONFIG", root.join("pki/admin.conf")).env("HOME", root);
        command
    }

    /// The command of a `kubectl` call.
    pub fn kubectl_command(&self, words: &[&str]) -> Command {
        let mut command = self.client_command(&self.programs.join("kubectl"));
        command.args(words);
        command
    }

    /// Runs `kubectl` to its end.
    pub fn kubectl(&self, words: &[&str]) -> Outcome {
        call(self.kubectl_command(words), None)
    }

    /// Runs `kubectl` with this standard input to its end.
    pub fn kubectl_with(&self, words: &[&str], stdin: &str) -> Outcome {
        call(self.kubectl_command(words), Some(stdin.as_bytes()))
    }

    /// Makes an image known to the registry: an OCI layout as an archive.
    pub fn add_archive(&self, name: &str, archive: &Path) {
        self.registry.add_archive(name, archive);
    }

    /// The folder of Kubernetes' programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The machine of the control plane.
    pub fn hub(&self) -> &Machine {
        &self.hub
    }

    fn wait_ready(&self, nodes: &[Node]) {
        for node in nodes {
            let path = format!("/api/v1/nodes/{}", node.name());
            wait_until(&format!("{} is ready", node.name()), PATIENCE, || {
                node.machine().assert_runs("kubelet");
                let Some(found) = self.api.find(&path) else { return false };
                let conditions = found["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
        }
    }

    fn make_classes(&self) {
        for (name, handler) in
            [("wasm", "wasm"), ("wasm-features", "wasm-features"), ("runc", "runc")]
        {
            let class = json!({
                "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                "metadata": {"name": name}, "handler": handler,
            });
            self.api.create("/apis/node.k8s.io/v1/runtimeclasses", &class);
        }
    }
}

/// Starts a process that notes the kernel's settings which a kubelet changes, and puts them back
/// when the test process has ended.
fn keep_settings() -> Child {
    let script = "cd /proc/sys && exec 2> /dev/null
        for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \\
            kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
            old[${#old[@]}]=\"$file $(cat $file)\"
        done
        echo noted
        cat > /dev/null
        for setting in \"${old[@]}\"; do read -r file value <<< \"$setting\"; echo $value > $file; done";
    let mut keeper = Command::new("setsid")
        .args(["bash", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("setsid cannot be run: {e}"));
    let mut line = String::new();
    let said = keeper.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line)
        .expect("the process says when it has noted them");
    keeper
}
