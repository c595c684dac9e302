//! What libcontainer reads in place of a bundle's configuration, where that is not for it as it is.
//!
//! - Hooks: see [`super::gate`].
//! - A user namespace: libcontainer would have another program write its mappings, and systemd
//!   manage its cgroup. It is made here, and libcontainer joins it; see [`super::userns`], and
//!   [`super::binds`].
//! - Sets of processors and memory nodes, in a scope of systemd's: libcgroups tells systemd of them in a form that it
//!   refuses. See [`cgroup::complete`].

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, fcntl};
use oci_spec::runtime::{Hooks, HooksBuilder, LinuxNamespaceType, Spec};

use super::{adopt, binds, gate, userns};
use crate::bundle::Bundle;
use crate::cgroup;
use crate::config::Config;
use crate::hooks::{Batch, Moment};

/// A configuration as libcontainer takes it.
pub(super) struct Adapted {
    /// The directory in which it lies.
    pub(super) path: PathBuf,
    /// What must be open until the container's first process exists.
    _open: Vec<OwnedFd>,
}

/// Adapts the configuration of a bundle. `systemd`: makes the cgroup. `channel`: the guest's.
pub(super) fn adapt(
    bundle: &Bundle,
    spec: &Spec,
    config: &Config,
    systemd: bool,
    channel: &OwnedFd,
) -> Result<Adapted, String> {
    let mut open = Vec::new();
    let mut adapted = spec.clone();
    adapt_hooks(bundle, config, channel, &mut adapted, &mut open)?;
    adapt_user_namespace(&mut adapted, &mut open)?;
    if systemd && cgroup::is_unified() {
        adapt_sets(&mut adapted);
    }
    binds::stage(bundle, &mut adapted)?;
    if adapted == *spec {
        return Ok(Adapted { path: bundle.path().to_owned(), _open: open });
    }
    if let Some(root) = adapted.root_mut() {
        root.set_path(bundle.root(config));
    }
    let path = bundle.adapted();
    let file = path.join("config.json");
    fs::create_dir_all(&path)
        .map_err(|error| error.to_string())
        .and_then(|()| adapted.save(&file).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(Adapted { path, _open: open })
}

/// Puts the gate in the place of each moment's hooks. Those at Start are the executor's.
fn adapt_hooks(
    bundle: &Bundle,
    config: &Config,
    channel: &OwnedFd,
    adapted: &mut Spec,
    open: &mut Vec<OwnedFd>,
) -> Result<(), String> {
    if config.hooks.is_none() {
        return Ok(());
    }
    let batch = |moment| Batch::new(moment, bundle, config);
    let inside = batch(Moment::CreateContainer);
    let channel = inheritable(channel).map_err(|error| error.to_string())?;
    let mut hooks = HooksBuilder::default();
    let due = [Moment::Prestart, Moment::CreateRuntime];
    if !due.iter().all(|moment| batch(*moment).is_empty()) {
        hooks = hooks.create_runtime(vec![gate::hook(&channel, None)?]);
    }
    if !inside.is_empty() {
        hooks = hooks.create_container(vec![gate::hook(&channel, Some(&inside))?]);
    }
    let hooks: Hooks = hooks.build().map_err(|error| error.to_string())?;
    adapted.set_hooks((hooks != Hooks::default()).then_some(hooks));
    open.push(channel);
    Ok(())
}

/// Makes the user namespace that the configuration wants to be new, and opens those that are to be
/// joined: in a user namespace of its own a process may not open them.
fn adapt_user_namespace(adapted: &mut Spec, open: &mut Vec<OwnedFd>) -> Result<(), String> {
    let Some(linux) = adapted.linux_mut() else { return Ok(()) };
    if userns::wanted(linux).is_none() {
        return Ok(());
    }
    let (uids, gids) = (linux.uid_mappings().clone(), linux.gid_mappings().clone());
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        let fd = match namespace.path() {
            Some(path) => File::open(path)
                .map_err(|error| format!("cannot open {}: {error}", path.display()))?
                .into(),
            None if namespace.typ() == LinuxNamespaceType::User => {
                userns::make(uids.as_deref(), gids.as_deref())?
            }
            None => continue,
        };
        namespace.set_path(Some(format!("/proc/self/fd/{}", fd.as_raw_fd()).into()));
        open.push(fd);
    }
    Ok(())
}

/// Leaves out the sets of processors and memory nodes.
fn adapt_sets(adapted: &mut Spec) {
    let resources = adapted.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(cpu) = resources.and_then(|resources| resources.cpu_mut().as_mut()) {
        cpu.set_cpus(None).set_mems(None);
    }
}

/// A copy of a descriptor that stays open over exec.
fn inheritable(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    Ok(adopt(fcntl(fd, FcntlArg::F_DUPFD(10))?))
}
