//! Starts and ends daemons: their command lines, their configuration.

use crate::containerd::{ContainerdVersion, Handler, Setup};
use crate::io::{CALL_DEADLINE, line_of};
use crate::places::{self, engine};
use crate::processes::Process;
use crate::scope::Scope;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// containerd's plug-ins of CRI: the only one of containerd 1, and the others of containerd 2.
const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";
const CRI_SANDBOXES: &str = "io.containerd.podsandbox.controller.v1.podsandbox";

/// The folder of the `hosts.toml` of each registry, in the daemon's.
pub(crate) const HOSTS: &str = "certs.d";

/// Mounts a folder over /etc, for a program and its children alone.
const OWN_ETC: &str = r#"mount -t overlay -o "lowerdir=$0:/etc" overlay /etc && exec "$@""#;

/// The end of the name of a runtime handler whose pods the shim makes.
pub const SHIM_SANDBOXER: &str = "-shim";

/// Starts the containerd of a scope.
pub(crate) fn spawn(scope: &Scope, setup: &Setup, path: &str) -> Child {
    let mut command = in_network_namespace(setup.netns.as_deref(), "containerd", path);
    if let Some(etc) = &setup.etc {
        let inner = command;
        command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", OWN_ETC]).arg(etc);
        command.arg(inner.get_program()).args(inner.get_args()).env("PATH", path);
    }
    command.arg("--config").arg(scope.root().join("containerd.toml"));
    command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(scope.log()).stderr(scope.log());
    command.spawn().unwrap_or_else(|e| panic!("`{}` cannot be run: {e}", line_of(&command)))
}

/// The command of a program from the given PATH, in the named network namespace, or in the current
/// one.
pub(crate) fn in_network_namespace(name: Option<&str>, program: &str, path: &str) -> Command {
    let program = resolve(program, path);
    let mut command = match name {
        // `ip netns exec` would hide the cgroup mounts behind a new /sys.
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.env("PATH", path);
    command
}

/// Finds a program in the given PATH.
fn resolve(program: &str, path: &str) -> PathBuf {
    let found = path
        .split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| panic!("no {program} in {path}"))
}

/// Ends a child by SIGTERM, then by SIGKILL.
pub(crate) fn terminate(child: &mut Child) {
    let pid = i32::try_from(child.id()).expect("a pid");
    if Process::of(pid).is_some() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let start = std::time::Instant::now();
        while start.elapsed() < CALL_DEADLINE / 10 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    // It may have ended since.
    let _ = child.kill();
    let _ = child.wait();
}

/// The configuration of the containerd of this folder: its paths, and the plugins to omit because
/// they are slow to start. With an image for a pod's first container it serves CRI.
pub(crate) fn config(version: ContainerdVersion, root: &Path, setup: &Setup) -> String {
    let (format, cri) = if version.is_2() {
        (3, [CRI, CRI_IMAGES, CRI_RUNTIME, CRI_SANDBOXES].as_slice())
    } else {
        (2, [CRI].as_slice())
    };
    let unwanted = if setup.sandbox_image.is_some() { &[] } else { cri };
    let unwanted: String = unwanted.iter().map(|plugin| format!("\"{plugin}\", ")).collect();
    let level = if std::env::var_os("WHERRY_DEBUG").is_some() { "debug" } else { "info" };
    let image = setup.sandbox_image.as_ref();
    let kubernetes =
        image.map_or_else(String::new, |image| kubernetes(version, root, image, &setup.handlers));
    let root = root.display();
    format!(
        r#"version = {format}
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
    {unwanted}
    "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.erofs",
]
[grpc]
address = "{root}/c.sock"
[ttrpc]
address = "{root}/c.sock.ttrpc"
[debug]
address = "{root}/debug.sock"
level = "{level}"
{kubernetes}"#
    )
}

/// The configuration of the CRI plugin: a runtime handler with the engine's name, and options that
/// an operator may set for every runtime, one of which has no meaning for this one; where
/// containerd has the Sandbox API, a second handler with [`SHIM_SANDBOXER`] behind the name; and
/// the given handlers. A machine may forbid root to lower the OOM score of a process, which CRI
/// does for a pause container.
fn kubernetes(
    version: ContainerdVersion,
    root: &Path,
    sandbox_image: &str,
    handlers: &[Handler],
) -> String {
    let (plugin, images) = if version.is_2() {
        let section = format!("[plugins.\"{CRI_IMAGES}\".pinned_images]");
        (CRI_RUNTIME, format!("{section}\nsandbox = \"{sandbox_image}\""))
    } else {
        (CRI, format!("sandbox_image = \"{sandbox_image}\""))
    };
    let of_images = if version.is_2() { CRI_IMAGES } else { CRI };
    let hosts = format!(
        "[plugins.\"{of_images}\".registry]\nconfig_path = \"{}\"",
        root.join(HOSTS).display()
    );
    let runtime = format!("plugins.\"{plugin}\"");
    let (kind, root) = (places::runtime(), root.display());
    let of = |kind: &str, name: &str, keys: &str, options: Option<&str>| {
        let table = format!("{runtime}.containerd.runtimes.{name}");
        let options = options.map(|lines| format!("[{table}.options]\n{lines}"));
        let options = options.unwrap_or_default();
        format!("[{table}]\nruntime_type = \"{kind}\"\n{keys}{options}")
    };
    let table = |name: &str, keys: &str, options: Option<&str>| of(&kind, name, keys, options);
    let systemd = places::systemd_cgroups();
    let options = format!("SystemdCgroup = {systemd}\nKeyOfAnotherRuntime = \"value\"\n");
    let own = Handler { name: engine(), options: options.clone(), ..Handler::default() };
    let all = handlers.iter().chain([&own]);
    let mut handlers: String = all
        .map(|Handler { name, runtime, keys, options }| {
            let kind = if runtime.is_empty() { &kind } else { runtime };
            of(kind, name, keys, Some(options))
        })
        .collect();
    let pods = engine() + SHIM_SANDBOXER;
    let by_shim = "sandboxer = \"shim\"\n";
    handlers += &match version {
        ContainerdVersion::V1_6 | ContainerdVersion::V1_7 => String::new(),
        // Before 2.3 containerd takes options for runc alone here.
        ContainerdVersion::V2 => table(&pods, by_shim, None),
        ContainerdVersion::V2_4 => {
            let keys = format!("{by_shim}disable_pause_image_pull = true\n");
            table(&pods, &keys, Some(&options))
        }
    };
    let plugins = places::daemon_bin("cni");
    let plugins = match version {
        ContainerdVersion::V2_4 => format!("bin_dirs = [{plugins:?}]"),
        _ => format!("bin_dir = {plugins:?}"),
    };
    format!(
        r#"[{runtime}]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
{images}
{hosts}
[{runtime}.cni]
{plugins}
conf_dir = "{root}/cni"
[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
{handlers}"#
    )
}

/// Writes the configuration of the pods' network: an interface, connected to the network namespace
/// of the containerd.
pub(crate) fn write_network(root: &Path) -> std::io::Result<()> {
    let data = root.join("cni-data");
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{"type": "ptp", "ipam": {
            "type": "host-local",
            "dataDir": data,
            "ranges": [[{"subnet": "10.99.0.0/24"}]],
        }}],
    });
    let directory = root.join("cni");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("10-pods.conflist"), config.to_string())
}
