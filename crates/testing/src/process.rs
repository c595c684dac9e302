//! Starts and ends daemons: their command lines, their configuration.

use crate::containerd::{ContainerdVersion, Handler, Setup};
use crate::io::{CALL_DEADLINE, line_of};
use crate::places::{self, engine};
use crate::processes::Process;
use crate::scope::Scope;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// containerd's plug-ins of CRI: the only one of containerd 1, and the others of containerd 2.
const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";
const CRI_SANDBOXES: &str = "io.containerd.podsandbox.controller.v1.podsandbox";

/// Mounts a folder over /etc, for a program and its children alone.
const OWN_ETC: &str = r#"mount -t overlay -o "lowerdir=$0:/etc" overlay /etc && exec "$@""#;

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
/// an operator may set for every runtime, one of which has no meaning for this one; and the given
/// handlers. A machine may forbid root to lower the OOM score of a process, which CRI does for a
/// pause container.
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
    let runtime = format!("plugins.\"{plugin}\"");
    let own = Handler {
        name: engine(),
        options: format!(
            "SystemdCgroup = {}\nKeyOfAnotherRuntime = \"value\"\n",
            places::systemd_cgroups()
        ),
    };
    let (kind, root) = (places::runtime(), root.display());
    let handler = |handler: &Handler| {
        let table = format!("{runtime}.containerd.runtimes.{}", handler.name);
        let options = &handler.options;
        format!("[{table}]\nruntime_type = \"{kind}\"\n[{table}.options]\n{options}")
    };
    let handlers: String = handlers.iter().chain([&own]).map(handler).collect();
    format!(
        r#"[{runtime}]
restrict_oom_score_adj = true
{images}
[{runtime}.cni]
conf_dir = "{root}/cni"
[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
{handlers}"#
    )
}
