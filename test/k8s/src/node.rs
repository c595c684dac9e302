//! A node: a machine with a containerd and a kubelet.

use crate::PATIENCE;
use crate::machine::Machine;
use crate::network::{self, HUB};
use crate::registry::PORT;
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::path::Path;
use wherry_testing::{bin_dir, cgroup_parent, daemon_bin, engine, wait_until};

/// How a node's containerd is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// With the executables under test in PATH, and handlers for them.
    ByHand,
    /// Without Wherry: for what installs it.
    Bare,
}

/// The maker of wasm pods: `WHERRY_SANDBOXER`, or `podsandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandboxer {
    /// containerd, with a pause container.
    Podsandbox,
    /// The shim.
    Shim,
}

impl Sandboxer {
    /// Its name in containerd's configuration and in the chart's values.
    pub fn name(self) -> &'static str {
        match self {
            Sandboxer::Podsandbox => "podsandbox",
            Sandboxer::Shim => "shim",
        }
    }

    /// The containerd of the nodes: up to 2.2 it cannot leave pods with the host's network to a
    /// shim.
    fn containerd(self) -> &'static str {
        match self {
            Sandboxer::Podsandbox => "containerd-2",
            Sandboxer::Shim => "containerd-2.4",
        }
    }
}

/// The maker of wasm pods in this run.
pub fn sandboxer() -> Sandboxer {
    match std::env::var("WHERRY_SANDBOXER").as_deref() {
        Err(_) | Ok("podsandbox") => Sandboxer::Podsandbox,
        Ok("shim") => Sandboxer::Shim,
        Ok(other) => panic!("WHERRY_SANDBOXER is neither podsandbox nor shim: {other}"),
    }
}

/// A machine with a containerd and a kubelet.
pub struct Node {
    name: String,
    machine: Machine,
    path: String,
    cgroup: String,
    preparation: Preparation,
}

/// The address of containerd on each node.
const SOCKET: &str = "/run/containerd/containerd.sock";

impl Node {
    /// Starts the machine with containerd. `scope` names its cgroup.
    pub(crate) fn start(
        hub: &Machine,
        root: &Path,
        number: usize,
        scope: &str,
        programs: &Path,
        preparation: Preparation,
    ) -> Node {
        let name = name(number);
        let plugins = daemon_bin("cni").display().to_string();
        let machine =
            Machine::start(&root.join(&name), include_str!("node.sh"), &[plugins.as_str()]);
        network::connect(hub, &machine, number);
        let tools = format!(
            "{}:{}:{}",
            programs.display(),
            daemon_bin(sandboxer().containerd()).display(),
            daemon_bin("runc").display()
        );
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let path = match preparation {
            Preparation::ByHand => format!("{}:{tools}:{system}", bin_dir().display()),
            Preparation::Bare => format!("{tools}:{system}"),
        };
        let node = Node { name, machine, path, cgroup: cgroup_parent(scope), preparation };
        node.write("/etc/cni/net.d/10-pods.conflist", &network::cni(number));
        let hosts =
            format!("[host.\"http://{HUB}:{PORT}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        node.write("/etc/containerd/certs.d/_default/hosts.toml", &hosts);
        node.write("/etc/containerd/config.toml", &containerd_config(preparation));
        node.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
        let pki = root.join("pki");
        let address = network::address(number);
        node.write("/etc/kubernetes/kubelet.yaml", &node.kubelet_config(&pki, &address));
        node.make_cgroup();
        node.start_containerd();
        node
    }

    /// Starts the kubelet, which makes the machine a node of the cluster.
    pub(crate) fn start_kubelet(&self) {
        let pki = self.machine.root().parent().expect("a node is in the cluster").join("pki");
        self.machine.spawn("kubelet", &self.path, &self.kubelet_words(&pki, &self.address()));
    }

    /// Its name in the API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine that it is.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The address of the node.
    pub fn address(&self) -> String {
        network::address(number(&self.name))
    }

    /// Runs a shell script on the node, and returns its output.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.machine.shell(script).success()
    }

    /// The number of a container's first process, as the node sees it.
    pub fn pid_of(&self, container: &str) -> u32 {
        let id = container.trim_start_matches("containerd://");
        let status: serde_json::Value =
            serde_json::from_str(&self.crictl(&format!("inspect {id}"))).expect("JSON");
        let pid = status["info"]["pid"].as_u64().expect("a container has a pid");
        u32::try_from(pid).expect("a pid")
    }

    /// Writes a file as the node sees it, with the folders above it.
    pub fn write(&self, path: &str, text: &str) {
        let folder = Path::new(path).parent().expect("a file is in a folder").display();
        let file = format!("mkdir -p '{folder}' && cat > '{path}'");
        let command = self.machine.command(&["sh", "-c", &file]);
        wherry_testing::call(command, Some(text.as_bytes())).success();
    }

    /// Runs `crictl` with its containerd, and returns its output.
    pub fn crictl(&self, words: &str) -> String {
        let crictl = format!("PATH={} crictl -r unix://{SOCKET} {words}", self.path);
        self.machine.shell(&crictl).success()
    }

    /// Starts containerd, and waits until it serves. On a bare node it starts again whenever it
    /// ends, as systemd has it, and /run/containerd.pid has its number.
    pub fn start_containerd(&self) {
        let containerd =
            daemon_bin(sandboxer().containerd()).join("containerd").display().to_string();
        let again = "while :; do \"$0\" & echo $! > /run/containerd.pid; wait; done";
        let words = match self.preparation {
            Preparation::ByHand => vec![containerd.as_str()],
            Preparation::Bare => vec!["bash", "-c", again, containerd.as_str()],
        };
        self.machine.spawn("containerd", &self.path, &words);
        self.wait_for_containerd();
    }

    fn wait_for_containerd(&self) {
        let ctr = daemon_bin(sandboxer().containerd()).join("ctr").display().to_string();
        wait_until(&format!("containerd on {} serves", self.name), PATIENCE, || {
            self.machine.assert_runs("containerd");
            wherry_testing::call(self.machine.command(&[&ctr, "version"]), None).code == 0
        });
    }

    /// Ends containerd, politely or not. Its containers continue.
    pub fn end_containerd(&self, signal: Signal) {
        self.machine.end("containerd", signal);
    }

    /// Ends the kubelet, politely or not, and starts it again.
    pub fn restart_kubelet(&self, signal: Signal) {
        self.machine.end("kubelet", signal);
        self.start_kubelet();
    }

    fn kubelet_words(&self, pki: &Path, address: &str) -> Vec<&'static str> {
        // Leaked: a few words for each start of a kubelet, in a test program.
        let leak = |text: String| -> &'static str { text.leak() };
        vec![
            "kubelet",
            "--config=/etc/kubernetes/kubelet.yaml",
            leak(format!("--kubeconfig={}", pki.join("admin.conf").display())),
            leak(format!("--hostname-override={}", self.name)),
            leak(format!("--node-ip={address}")),
            "--v=2",
        ]
    }

    fn kubelet_config(&self, pki: &Path, address: &str) -> String {
        let file = |name: &str| pki.join(name).display().to_string();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "address": address,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": false},
                "x509": {"clientCAFile": file("ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": file("kubelet.crt"),
            "tlsPrivateKeyFile": file("kubelet.key"),
            "cgroupDriver": "cgroupfs",
            // Two kubelets share the machine's cgroups: each has a separate root.
            "cgroupRoot": format!("{}/{}", self.cgroup, self.name),
            "failCgroupV1": false,
            "failSwapOn": false,
            // A machine may forbid root to lower a process's OOM score.
            "oomScoreAdj": 0,
            "resolvConf": "/etc/resolv.conf",
            "maxPods": 600,
            "serializeImagePulls": false,
            "registryPullQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "syncFrequency": "10s",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "allowedUnsafeSysctls": ["net.core.somaxconn"],
            "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
            "featureGates": {"KubeletCrashLoopBackOffMax": true},
        })
        .to_string()
    }

    /// Makes the cgroup that holds the node's pods, in each hierarchy.
    fn make_cgroup(&self) {
        let path = format!("{}/{}", self.cgroup.trim_start_matches('/'), self.name);
        let base = Path::new("/sys/fs/cgroup");
        let mut hierarchies = vec![base.to_owned()];
        if !base.join("cgroup.controllers").exists() {
            let entries = fs::read_dir(base).expect("/sys/fs/cgroup is mounted").flatten();
            hierarchies = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        }
        for hierarchy in hierarchies {
            let folder = hierarchy.join(&path);
            fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        }
    }
}

/// The name of the node with this number.
pub(crate) fn name(number: usize) -> String {
    format!("node-{number}")
}

fn number(name: &str) -> usize {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("node-NUMBER")
}

fn containerd_config(preparation: Preparation) -> String {
    let engine = engine();
    let own = format!("runtime_type = \"io.containerd.{engine}.v1\"");
    let (wasm, features) = match sandboxer() {
        // containerd before 2.4 asks runtimes of this type alone for their features, which user
        // namespaces need.
        Sandboxer::Podsandbox => {
            let shim = bin_dir().join(format!("containerd-shim-{engine}-v1"));
            (own, format!("runtime_type = \"io.containerd.runc.v2\"\nruntime_path = {shim:?}"))
        }
        Sandboxer::Shim => {
            let by_shim = own + "\nsandboxer = \"shim\"\ndisable_pause_image_pull = true";
            (by_shim.clone(), by_shim)
        }
    };
    let handlers = format!(
        r#"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasm]
{wasm}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasm.options]
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasm-features]
{features}
"#
    );
    let handlers = if preparation == Preparation::ByHand { &handlers } else { "" };
    format!(
        r#"version = 3
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
# A machine may forbid root to lower a process's OOM score, which CRI does for a pause container.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
{handlers}"#
    )
}
