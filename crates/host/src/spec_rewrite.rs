//! Rewrites the configuration of a bundle for libcontainer, which cannot use some parts of it
//! unchanged:
//!
//! - Hooks: replaced by the hook proxy, see [`crate::hook_proxy`].
//! - A user namespace: libcontainer would run another program to write its mappings, and let
//!   systemd manage its cgroup. It is created here, and libcontainer joins it: see
//!   [`crate::userns`] and [`crate::staged_binds`].
//! - Sets of processors and memory nodes in a systemd scope: libcgroups passes them to systemd in a
//!   form that systemd refuses. See [`crate::cgroup::complete`].
//! - The propagation of the root filesystem: see [`crate::propagation`].
//! - Cgroups of version 1: libcontainer finds them through the pid of its parent in the container's
//!   pid namespace, which in a shared pid namespace is another process in the host's procfs, or
//!   none; and it binds them without options, so that a container's root could raise its own
//!   limits.
//! - The files of a pod whose daemon made it: see [`crate::pod_files`].
//! - A read-only sysfs: libcontainer makes the mount read-only, not the filesystem.
//! - A tmpfs without a mode: runc gives it that of the directory that it covers, libcontainer
//!   mode 1777, so that every user may write to it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use oci_spec::OciSpecError;
use oci_spec::runtime::{Hooks, HooksBuilder, LinuxNamespaceType, Mount, MountBuilder, Spec};
use wherry_bundle::hooks::{Batch, Moment};
use wherry_bundle::{Bundle, Config};
use wherry_cgroup::{CgroupName, Hierarchy, is_unified};
use wherry_protocol::Channel;

use crate::mount::MountError;
use crate::mount_namespace::is_cgroup;
use crate::namespaces::SpareNamespaces;
use crate::propagation::Propagation;
use crate::userns::UserNamespaceError;
use crate::{adopt, hook_proxy, mount, pod_files, staged_binds, userns};

/// Options of a cgroup mount that apply to each hierarchy.
const CGROUP_OPTIONS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// Why a configuration could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    #[error("cannot rewrite config.json: {0}")]
    Build(#[from] OciSpecError),
    #[error("cannot encode the configuration for libcontainer: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("cannot pass the setup channel to the hook proxy: {0}")]
    Channel(io::Error),
    #[error("cannot open the namespace {}: {source}", .path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot create {}: {source}", .path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A configuration that libcontainer can use.
pub(crate) struct Rewritten {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Descriptors that must stay open until the container's first process exists.
    _open: Vec<OwnedFd>,
    _namespaces: Option<SpareNamespaces>,
}

/// The parts of a container that its rewritten configuration names.
pub(crate) struct Parts<'a> {
    /// The fields of its configuration that the daemon acts on, too.
    pub(crate) config: &'a Config,
    /// Its cgroup.
    pub(crate) cgroup: &'a CgroupName,
    /// Its setup channel.
    pub(crate) channel: &'a Channel,
    /// The directory of the files that the containers of its pod share.
    pub(crate) pod_files: Option<&'a Path>,
    /// Namespaces for it, made ahead.
    pub(crate) namespaces: Option<SpareNamespaces>,
}

/// Rewrites the configuration of a bundle.
pub(crate) fn rewrite(
    bundle: &Bundle,
    spec: &Spec,
    parts: Parts<'_>,
) -> Result<Rewritten, RewriteError> {
    let Parts { config, cgroup, channel, pod_files, namespaces } = parts;
    let mut open = Vec::new();
    let mut rewritten = spec.clone();
    // Before the staging of bind mounts, which replaces their sources.
    if let Some(directory) = pod_files {
        pod_files::add(directory, &mut rewritten)?;
    }
    rewrite_tmpfs(&bundle.root(config), &mut rewritten);
    rewrite_hooks(bundle, config, channel, &mut rewritten, &mut open)?;
    rewrite_user_namespace(&mut rewritten, &mut open)?;
    if let Some(namespaces) = &namespaces {
        namespaces.give_to(&mut rewritten);
    }
    if cgroup.systemd && is_unified() {
        rewrite_sets(&mut rewritten);
    }
    staged_binds::stage(bundle, &mut rewritten)?;
    // After the staging, for which the cgroup would have to exist, and which reads the propagation.
    if !is_unified() {
        rewrite_cgroup_mount(&mut rewritten, &cgroup.path, &Hierarchy::all())?;
    }
    rewrite_propagation(&mut rewritten);
    rewrite_sysfs(&mut rewritten);
    if rewritten == *spec {
        let path = bundle.path().to_owned();
        return Ok(Rewritten { path, _open: open, _namespaces: namespaces });
    }
    if let Some(root) = rewritten.root_mut() {
        root.set_path(bundle.root(config));
    }
    let path = bundle.rewritten();
    fs::create_dir_all(&path)
        .map_err(|source| RewriteError::Create { path: path.clone(), source })?;
    let file = path.join("config.json");
    // Not `Spec::save`: its error has no cause.
    fs::write(&file, serde_json::to_vec(&rewritten)?)
        .map_err(|source| RewriteError::Write { path: file, source })?;
    Ok(Rewritten { path, _open: open, _namespaces: namespaces })
}

/// Replaces each moment's hooks with the hook proxy. The executor runs those of Start.
fn rewrite_hooks(
    bundle: &Bundle,
    config: &Config,
    channel: &Channel,
    rewritten: &mut Spec,
    open: &mut Vec<OwnedFd>,
) -> Result<(), RewriteError> {
    if config.hooks.is_none() {
        return Ok(());
    }
    let batch = |moment| Batch::new(moment, bundle, config);
    let inside = batch(Moment::CreateContainer);
    let channel = inheritable(channel).map_err(|errno| RewriteError::Channel(errno.into()))?;
    let mut hooks = HooksBuilder::default();
    let due = [Moment::Prestart, Moment::CreateRuntime];
    if !due.iter().all(|moment| batch(*moment).is_empty()) {
        hooks = hooks.create_runtime(vec![hook_proxy::hook(&channel, None)?]);
    }
    if !inside.is_empty() {
        hooks = hooks.create_container(vec![hook_proxy::hook(&channel, Some(&inside))?]);
    }
    let hooks: Hooks = hooks.build()?;
    rewritten.set_hooks((hooks != Hooks::default()).then_some(hooks));
    open.push(channel);
    Ok(())
}

/// Creates the user namespace if the configuration requires a new one, and opens the namespaces to
/// join: inside a user namespace a process may not open them.
fn rewrite_user_namespace(
    rewritten: &mut Spec,
    open: &mut Vec<OwnedFd>,
) -> Result<(), RewriteError> {
    let Some(linux) = rewritten.linux_mut() else { return Ok(()) };
    if userns::configured(linux).is_none() {
        return Ok(());
    }
    let (uids, gids) = (linux.uid_mappings().clone(), linux.gid_mappings().clone());
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        let fd = match namespace.path() {
            Some(path) => File::open(path)
                .map_err(|source| RewriteError::Namespace { path: path.clone(), source })?
                .into(),
            None if namespace.typ() == LinuxNamespaceType::User => {
                userns::create(uids.as_deref(), gids.as_deref())?
            }
            None => continue,
        };
        namespace.set_path(Some(format!("/proc/self/fd/{}", fd.as_raw_fd()).into()));
        open.push(fd);
    }
    Ok(())
}

/// Removes the sets of processors and memory nodes.
fn rewrite_sets(rewritten: &mut Spec) {
    let resources = rewritten.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(cpu) = resources.and_then(|resources| resources.cpu_mut().as_mut()) {
        cpu.set_cpus(None).set_mems(None);
    }
}

/// Replaces a mount of cgroups by a tmpfs and a bind mount of the container's cgroup `path` in each
/// hierarchy, with the options of the mount. [`crate::mount_namespace`] adds the symbolic links.
fn rewrite_cgroup_mount(
    rewritten: &mut Spec,
    path: &Path,
    hierarchies: &[Hierarchy],
) -> Result<(), RewriteError> {
    let Some(mounts) = rewritten.mounts_mut() else { return Ok(()) };
    let Some(at) = mounts.iter().position(is_cgroup) else { return Ok(()) };
    let cgroups = mounts.remove(at);
    let mut replacements = vec![
        mount_builder("tmpfs", Path::new("tmpfs"), cgroups.destination())
            .options(["noexec", "nosuid", "nodev", "mode=755"].map(str::to_owned))
            .build()?,
    ];
    let configured = cgroups.options().iter().flatten();
    let mut options: Vec<String> =
        configured.filter(|option| CGROUP_OPTIONS.contains(&option.as_str())).cloned().collect();
    options.push("bind".to_owned());
    for hierarchy in hierarchies {
        let Some(name) = hierarchy.mount.file_name() else { continue };
        let destination = cgroups.destination().join(name);
        let bind = mount_builder("bind", &hierarchy.directory(path), &destination);
        replacements.push(bind.options(options.clone()).build()?);
    }
    mounts.splice(at..at, replacements);
    Ok(())
}

fn mount_builder(kind: &str, source: &Path, destination: &Path) -> MountBuilder {
    MountBuilder::default().typ(kind).source(source).destination(destination)
}

/// Replaces the propagation of the root filesystem by the value that libcontainer knows.
fn rewrite_propagation(rewritten: &mut Spec) {
    if let Some(linux) = rewritten.linux_mut()
        && let Some(propagation) = Propagation::of_root(linux)
    {
        linux.set_rootfs_propagation(Some(propagation.for_libcontainer().to_owned()));
    }
}

/// Makes a read-only sysfs read-only as a filesystem, too. The kernel reads `ro=…` as `ro`, and
/// libcontainer passes options that it does not know to the filesystem. A sysfs of a network
/// namespace that has one already keeps its own mode.
fn rewrite_sysfs(rewritten: &mut Spec) {
    let mounts = rewritten.mounts_mut().iter_mut().flatten();
    let is_read_only = |mount: &&mut Mount| {
        mount.typ().as_deref() == Some("sysfs")
            && mount.options().iter().flatten().any(|option| option == "ro")
    };
    for mount in mounts.filter(is_read_only) {
        if let Some(options) = mount.options_mut() {
            options.push("ro=1".to_owned());
        }
    }
}

/// Gives each tmpfs without a mode that of the directory that it covers, if there is one.
fn rewrite_tmpfs(root: &Path, rewritten: &mut Spec) {
    let Some(mounts) = rewritten.mounts_mut() else { return };
    for at in 0..mounts.len() {
        let (earlier, rest) = mounts.split_at_mut(at);
        let Some(mount) = rest.first_mut().filter(|mount| is_tmpfs_without_mode(mount)) else {
            continue;
        };
        if let Some(mode) = covered_mode(root, earlier, mount.destination()) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push(format!("mode={mode:o}"));
            mount.set_options(Some(options));
        }
    }
}

fn is_tmpfs_without_mode(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("tmpfs")
        && !mount.options().iter().flatten().any(|option| option.starts_with("mode="))
}

/// The mode of the directory at `path` after the mounts before it. None if it does not exist or is
/// in a filesystem that does not exist yet: that has no such directory either, or is the kernel's.
fn covered_mode(root: &Path, earlier: &[Mount], path: &Path) -> Option<u32> {
    let (root, path) = match earlier.iter().rfind(|mount| path.starts_with(mount.destination())) {
        Some(mount) if staged_binds::is_bind(mount) => {
            (mount.source().as_deref()?, path.strip_prefix(mount.destination()).ok()?)
        }
        Some(_) => return None,
        None => (root, path),
    };
    if path.as_os_str().is_empty() {
        return fs::metadata(root).ok().map(|metadata| metadata.mode() & 0o7777);
    }
    let directory = mount::open_directory(root, path).ok()?;
    nix::sys::stat::fstat(directory).ok().map(|stat| stat.st_mode & 0o7777)
}

/// Duplicates a descriptor without close-on-exec.
fn inheritable(fd: &Channel) -> nix::Result<OwnedFd> {
    Ok(adopt(fcntl(fd, FcntlArg::F_DUPFD(10))?))
}

#[cfg(test)]
mod tests;
