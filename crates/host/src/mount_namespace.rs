//! Completes the mounts of a container where libcontainer leaves them incomplete. Runs between
//! libcontainer's last step and Start: the container's first process exists and waits, and has run
//! none of the container's code.
//!
//! - The propagation of each mount, and the recursive forms of the root's: libcontainer ignores
//!   them.
//! - The links of controllers that share a hierarchy of version 1: `/sys/fs/cgroup/cpu` beside
//!   `cpu,cpuacct`. See [`crate::spec_rewrite`], which replaces libcontainer's cgroup mounts.
//! - The mode of directories of devices, such as `/dev/net`: libcontainer creates them with umask
//!   0.
//!
//! Every path is resolved below the container's root and through no magic link, so that no symbolic
//! link of an image leads to the host.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, setns};
use nix::unistd::symlinkat;
use oci_spec::runtime::{LinuxDevice, Spec};
use wherry_cgroup::{Hierarchy, is_unified};
use wherry_sys::process::Process;

use crate::mount::MountError;
use crate::mount_tree::set_propagation;
use crate::propagation::Propagation;

/// The mode that libcontainer gives the directories of devices, and the one that they get.
const CREATED_MODE: u32 = 0o777;
const DIRECTORY_MODE: u32 = 0o755;

/// Completes the mounts of the container whose first process is `pid`. This process must have one
/// thread: it enters the container's mount namespace, and returns to its own.
pub(crate) fn complete(pid: i32, spec: &Spec) -> Result<(), MountError> {
    let process = Process::new(pid);
    let inspect = |error| {
        MountError::path("open the mount namespace of process", Path::new(&pid.to_string()), error)
    };
    let root = process.inspect(|process| File::open(process.join("root"))).map_err(inspect)?;
    if let Some(mount) = spec.mounts().iter().flatten().find(|mount| is_cgroup(mount))
        && !is_unified()
    {
        link_controllers(&root, mount.destination(), &Hierarchy::all())?;
    }
    restrict_device_directories(&root, spec)?;
    let changes = propagations(spec);
    if changes.is_empty() {
        return Ok(());
    }
    let open = |process: &Path| File::open(process.join("ns/mnt"));
    let namespace = process.inspect(open).map_err(inspect)?;
    inside(&namespace, || {
        changes.iter().try_for_each(|(place, propagation)| propagate(&root, place, *propagation))
    })
}

pub(crate) fn is_cgroup(mount: &oci_spec::runtime::Mount) -> bool {
    mount.typ().as_deref() == Some("cgroup")
}

/// Runs `work` in a mount namespace, and returns to this process's own.
fn inside(
    namespace: &File,
    work: impl FnOnce() -> Result<(), MountError>,
) -> Result<(), MountError> {
    let own = Path::new("/proc/self/ns/mnt");
    let back = File::open(own).map_err(|error| MountError::path("open", own, error))?;
    let enter = |namespace: &File| {
        setns(namespace, CloneFlags::CLONE_NEWNS).map_err(|errno| MountError::Enter(errno.into()))
    };
    enter(namespace)?;
    let result = work();
    enter(&back)?;
    result
}

/// The propagation of each mount, in the order in which it is to be set: the root's first, because
/// its recursive form includes every other mount.
fn propagations(spec: &Spec) -> Vec<(PathBuf, Propagation)> {
    let root = spec.linux().as_ref().and_then(Propagation::of_root);
    let root = root.filter(|root| root.is_incomplete()).map(|root| (PathBuf::from("/"), root));
    let mounts = spec.mounts().iter().flatten();
    let own = mounts
        .filter_map(|mount| Some((mount.destination().clone(), Propagation::of_mount(mount)?)));
    root.into_iter().chain(own).collect()
}

fn propagate(root: &File, place: &Path, propagation: Propagation) -> Result<(), MountError> {
    let failed = |source| MountError::Propagation { propagation, place: place.to_owned(), source };
    let mount = match open_below(root, place, OFlag::O_PATH) {
        // A later mount covers this one, which no path leads to.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    match set_propagation(mount.as_fd(), propagation) {
        // EINVAL: not the root of a mount; a later mount covers it, too.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Creates the symbolic links of controllers that share a hierarchy.
fn link_controllers(
    root: &File,
    place: &Path,
    hierarchies: &[Hierarchy],
) -> Result<(), MountError> {
    let shared = || hierarchies.iter().filter(|hierarchy| hierarchy.controllers.len() > 1);
    if shared().next().is_none() {
        return Ok(());
    }
    let directory = open_below(root, place, OFlag::O_DIRECTORY)
        .map_err(|error| MountError::path("open", place, error))?;
    for hierarchy in shared() {
        let name = hierarchy.controllers.join(",");
        for controller in &hierarchy.controllers {
            match symlinkat(name.as_str(), &directory, controller.as_str()) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    let link = place.join(controller);
                    return Err(MountError::path("create", &link, errno.into()));
                }
            }
        }
    }
    Ok(())
}

/// Gives the directories that libcontainer has created for devices mode 0755, where `/dev` is a
/// tmpfs: all in it is libcontainer's.
fn restrict_device_directories(root: &File, spec: &Spec) -> Result<(), MountError> {
    let dev = Path::new("/dev");
    let is_tmpfs = spec
        .mounts()
        .iter()
        .flatten()
        .any(|mount| mount.destination() == dev && mount.typ().as_deref() == Some("tmpfs"));
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    for directory in device_directories(devices.filter(|_| is_tmpfs).unwrap_or_default()) {
        let failed = |error| MountError::path("set the mode of", directory, error);
        let opened = File::from(open_below(root, directory, OFlag::O_DIRECTORY).map_err(failed)?);
        let mode = opened.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o7777 == CREATED_MODE {
            let permissions = Permissions::from_mode(DIRECTORY_MODE);
            opened.set_permissions(permissions).map_err(failed)?;
        }
    }
    Ok(())
}

/// The directories strictly below `/dev` that have devices in them.
fn device_directories(devices: &[LinuxDevice]) -> Vec<&Path> {
    let dev = Path::new("/dev");
    let above = |device| Path::ancestors(LinuxDevice::path(device)).skip(1);
    let mut directories: Vec<&Path> = devices
        .iter()
        .flat_map(above)
        .filter(|directory| directory.starts_with(dev) && *directory != dev)
        .collect();
    directories.sort_unstable();
    directories.dedup();
    directories
}

fn open_below(root: &File, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use nix::sched::unshare;
    use nix::unistd::geteuid;
    use serde_json::{Value, json};

    use super::*;

    /// The first process of a mount namespace whose root is `root`, a tmpfs with some mounts:
    /// `source` is a shared mount of the host's namespace, bound at `/bind`.
    struct Container {
        child: Child,
        root: tempfile::TempDir,
        source: tempfile::TempDir,
    }

    impl Container {
        /// None: only root can mount.
        fn start() -> Option<Container> {
            if !geteuid().is_root() {
                return None;
            }
            let (root, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            run(&format!("mount -t tmpfs none {0} && mount --make-shared {0}", show(&source)));
            // As libcontainer: slaves of the host, a bind of the root on itself, the binds,
            // pivot_root.
            let script = format!(
                "mount --make-rslave / && mount -t tmpfs none {root} && cd {root} \
                 && mkdir bin lib lib64 usr bind other old proc \
                 && for each in bin lib lib64 usr; do mount --rbind /$each $each; done \
                 && mount --bind {source} bind && mount -t tmpfs none other \
                 && pivot_root . old && echo ready && exec sleep 1000",
                root = show(&root),
                source = show(&source)
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "unchanged", "sh", "-c", &script]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut ready = [0; 6];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            Some(Container { child, root, source })
        }

        fn complete(&self, config: &Value) -> Result<(), MountError> {
            let mut whole = serde_json::to_value(Spec::default()).unwrap();
            whole["mounts"] = config["mounts"].clone();
            whole["linux"]["rootfsPropagation"] = config["root"].clone();
            whole["linux"]["devices"] = config["devices"].clone();
            let spec: Spec = serde_json::from_value(whole).unwrap();
            let pid = i32::try_from(self.child.id()).unwrap();
            thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    // setns to a mount namespace requires a root and a working directory that no
                    // other thread shares.
                    unshare(CloneFlags::CLONE_FS).unwrap();
                    let result = complete(pid, &spec);
                    assert!(self.source.path().exists(), "not back in the namespace of the host");
                    result
                });
                thread.join().unwrap()
            })
        }

        /// The kernel's tags of the propagation of a mount, as `shared master`.
        fn propagation(&self, place: &str) -> String {
            let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap();
            let mut line = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let line = line.rfind(|line| line[4] == place).unwrap();
            let tags = line[6..].iter().take_while(|tag| **tag != "-");
            let tags: Vec<&str> = tags.filter_map(|tag| tag.split(':').next()).collect();
            tags.join(" ")
        }

        fn file(&self, path: &str) -> PathBuf {
            format!("/proc/{}/root{path}", self.child.id()).into()
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            // It may have ended; a failing test may have left no mount.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = Command::new("umount").arg("-l").arg(self.source.path()).status();
            let _ = Command::new("umount").arg("-lq").arg(self.root.path()).status();
        }
    }

    fn show(directory: &tempfile::TempDir) -> String {
        directory.path().display().to_string()
    }

    fn run(script: &str) {
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success(), "{script}");
    }

    fn bind(propagation: &str) -> Value {
        json!([{"destination": "/bind", "type": "bind", "source": "x",
            "options": ["rbind", propagation]}])
    }

    #[test]
    fn a_mount_has_the_propagation_of_its_options() {
        let Some(container) = Container::start() else { return };
        assert_eq!(container.propagation("/bind"), "master");
        for (option, expected) in [
            ("slave", "master"),
            ("rslave", "master"),
            ("shared", "shared master"),
            ("rshared", "shared master"),
            ("private", ""),
            ("rprivate", ""),
            ("unbindable", "unbindable"),
            ("runbindable", "unbindable"),
        ] {
            container.complete(&json!({"mounts": bind(option)})).unwrap();
            assert_eq!(container.propagation("/bind"), expected, "{option}");
        }
        // A mount that another one covers is left alone.
        let covered = json!([{"destination": "/bind/below", "type": "tmpfs", "source": "x",
            "options": ["private"]}]);
        container.complete(&json!({"mounts": covered})).unwrap();
    }

    #[test]
    fn mounts_of_the_host_appear_in_a_slave_and_not_in_a_private_mount() {
        let Some(container) = Container::start() else { return };
        let mount_on_host = |name: &str| {
            let source = container.source.path().join(name);
            fs::create_dir(&source).unwrap();
            run(&format!("mount -t tmpfs none {0} && touch {0}/file", source.display()));
            container.file(&format!("/bind/{name}/file")).exists()
        };
        container.complete(&json!({"mounts": bind("rslave"), "root": "rslave"})).unwrap();
        assert!(mount_on_host("one"));
        container.complete(&json!({"mounts": bind("rprivate")})).unwrap();
        assert!(!mount_on_host("two"));
    }

    #[test]
    fn a_recursive_root_propagation_reaches_every_mount_without_one_of_its_own() {
        let Some(container) = Container::start() else { return };
        assert_eq!(container.propagation("/other"), "");
        container.complete(&json!({"mounts": bind("rprivate"), "root": "rshared"})).unwrap();
        assert_eq!(container.propagation("/other"), "shared");
        assert_eq!(container.propagation("/bind"), "");
        container.complete(&json!({"mounts": [], "root": "runbindable"})).unwrap();
        assert_eq!(container.propagation("/other"), "unbindable");
    }

    #[test]
    fn directories_of_devices_are_not_writable_for_all() {
        let Some(container) = Container::start() else { return };
        for directory in ["/dev", "/dev/net", "/dev/a", "/dev/a/b", "/dev/mine"] {
            fs::create_dir(container.file(directory)).unwrap();
            let mode = if directory == "/dev/mine" { 0o1777 } else { 0o777 };
            fs::set_permissions(container.file(directory), Permissions::from_mode(mode)).unwrap();
        }
        let device = |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 3});
        let devices: Vec<Value> =
            ["/dev/net/tun", "/dev/a/b/c", "/dev/mine/d", "/dev/null"].map(device).into();
        let dev = json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]);
        container.complete(&json!({"mounts": dev, "devices": devices})).unwrap();
        let mode =
            |path: &str| container.file(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            ["/dev", "/dev/net", "/dev/a", "/dev/a/b", "/dev/mine"].map(mode),
            [0o777, 0o755, 0o755, 0o755, 0o1777]
        );
    }

    #[test]
    fn controllers_that_share_a_hierarchy_have_a_link_each() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["cpu", "cpuacct"].map(str::to_owned).to_vec();
        let alone = Hierarchy { mount: "/c/memory".into(), controllers: vec!["memory".to_owned()] };
        let shared = Hierarchy { mount: "/c/cpu,cpuacct".into(), controllers: names };
        let hierarchies = [alone, shared];
        let root = File::open(directory.path()).unwrap();
        // The second time they exist.
        for _ in 0..2 {
            link_controllers(&root, Path::new("/"), &hierarchies).unwrap();
        }
        let links = fs::read_dir(directory.path()).unwrap();
        assert_eq!(links.count(), 2);
        let link = fs::read_link(directory.path().join("cpuacct")).unwrap();
        assert_eq!(link, Path::new("cpu,cpuacct"));
    }
}
