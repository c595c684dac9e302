//! The configuration that libcontainer reads instead of the bundle's, if libcontainer cannot use the
//! bundle's as it is.
//!
//! - Hooks: replaced by the hook proxy, see [`crate::hook_proxy`].
//! - A user namespace: libcontainer would run another program to write its mappings, and let systemd
//!   manage its cgroup. It is created here, and libcontainer joins it: see [`crate::userns`] and
//!   [`crate::idmapped_binds`].
//! - Sets of processors and memory nodes in a systemd scope: libcgroups passes them to systemd in a
//!   form that systemd refuses. See [`crate::cgroup::complete`].

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, fcntl};
use oci_spec::runtime::{Hooks, HooksBuilder, LinuxNamespaceType, Spec};

use crate::{adopt, hook_proxy, idmapped_binds, userns};
use wherry_bundle::Bundle;
use wherry_bundle::Config;
use wherry_bundle::hooks::{Batch, Moment};
use wherry_protocol::Channel;

/// A configuration that libcontainer can use.
pub(super) struct Rewritten {
    /// Its directory.
    pub(super) path: PathBuf,
    /// Descriptors that must stay open until the container's first process exists.
    _open: Vec<OwnedFd>,
}

/// Rewrites the configuration of a bundle. `systemd` manages the cgroup. `channel` is the setup
/// channel.
pub(super) fn rewrite(
    bundle: &Bundle,
    spec: &Spec,
    config: &Config,
    systemd: bool,
    channel: &Channel,
) -> Result<Rewritten, String> {
    let mut open = Vec::new();
    let mut rewritten = spec.clone();
    rewrite_hooks(bundle, config, channel, &mut rewritten, &mut open)?;
    rewrite_user_namespace(&mut rewritten, &mut open)?;
    if systemd && wherry_cgroup::is_unified() {
        rewrite_sets(&mut rewritten);
    }
    idmapped_binds::stage(bundle, &mut rewritten)?;
    if rewritten == *spec {
        return Ok(Rewritten { path: bundle.path().to_owned(), _open: open });
    }
    if let Some(root) = rewritten.root_mut() {
        root.set_path(bundle.root(config));
    }
    let path = bundle.rewritten();
    let file = path.join("config.json");
    fs::create_dir_all(&path)
        .map_err(|error| error.to_string())
        .and_then(|()| rewritten.save(&file).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(Rewritten { path, _open: open })
}

/// Replaces each moment's hooks with the hook proxy. The executor runs those at Start.
fn rewrite_hooks(
    bundle: &Bundle,
    config: &Config,
    channel: &Channel,
    rewritten: &mut Spec,
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
        hooks = hooks.create_runtime(vec![hook_proxy::hook(&channel, None)?]);
    }
    if !inside.is_empty() {
        hooks = hooks.create_container(vec![hook_proxy::hook(&channel, Some(&inside))?]);
    }
    let hooks: Hooks = hooks.build().map_err(|error| error.to_string())?;
    rewritten.set_hooks((hooks != Hooks::default()).then_some(hooks));
    open.push(channel);
    Ok(())
}

/// Creates the user namespace if the configuration asks for a new one, and opens the namespaces to
/// join: inside a user namespace a process may not open them.
fn rewrite_user_namespace(rewritten: &mut Spec, open: &mut Vec<OwnedFd>) -> Result<(), String> {
    let Some(linux) = rewritten.linux_mut() else { return Ok(()) };
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

/// Removes the sets of processors and memory nodes.
fn rewrite_sets(rewritten: &mut Spec) {
    let resources = rewritten.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(cpu) = resources.and_then(|resources| resources.cpu_mut().as_mut()) {
        cpu.set_cpus(None).set_mems(None);
    }
}

/// Duplicates a descriptor without close-on-exec.
fn inheritable(fd: &Channel) -> nix::Result<OwnedFd> {
    Ok(adopt(fcntl(fd, FcntlArg::F_DUPFD(10))?))
}
