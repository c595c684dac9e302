//! Bind mounts of a container with a user namespace of its own.
//!
//! libcontainer mounts them as the container's root, who may not reach their sources, and knows no
//! idmapped mounts. So copies are mounted where that user finds them; in a mount namespace of this
//! process's own, which ends with it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{Mount, Spec};

use super::idmap::Tree;
use super::userns;
use wherry_bundle::Bundle;

/// Copies the sources of the bind mounts, and has `spec` name the copies.
pub(crate) fn stage(bundle: &Bundle, spec: &mut Spec) -> Result<(), String> {
    let namespace = spec.linux().as_ref().and_then(userns::wanted);
    let Some(namespace) = namespace.and_then(|namespace| namespace.path().clone()) else {
        return Ok(());
    };
    let mut binds =
        spec.mounts_mut().iter_mut().flatten().filter(|mount| is_bind(mount)).peekable();
    if binds.peek().is_none() {
        return Ok(());
    }
    let place = bundle.state_root().join("@mounts");
    enter(&place).map_err(|error| format!("cannot mount at {}: {error}", place.display()))?;
    let namespace = File::open(&namespace)
        .map(OwnedFd::from)
        .map_err(|error| format!("cannot open {}: {error}", namespace.display()))?;
    for (number, bind) in binds.enumerate() {
        one(bundle, bind, &namespace, &place.join(number.to_string()))
            .map_err(|error| format!("the mount at {}: {error}", bind.destination().display()))?;
    }
    Ok(())
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has(mount, "bind") || has(mount, "rbind")
}

fn has(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|other| other == option)
}

/// Enters a mount namespace whose mounts nobody else gets, with an empty one at `place`.
fn enter(place: &Path) -> std::io::Result<()> {
    fs::create_dir_all(place)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    let data = Some("mode=755");
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, data)?;
    Ok(())
}

fn one(bundle: &Bundle, bind: &mut Mount, namespace: &OwnedFd, place: &Path) -> Result<(), String> {
    let source = bind.source().as_ref().ok_or("it has no source")?;
    let tree = Tree::of(&bundle.path().join(source), has(bind, "rbind"))?;
    let (uids, gids) = (bind.uid_mappings().as_deref(), bind.gid_mappings().as_deref());
    let recursive = has(bind, "ridmap");
    if uids.is_some() || gids.is_some() {
        tree.map(&userns::make(uids, gids)?, recursive)?;
    } else if recursive || has(bind, "idmap") {
        tree.map(namespace, recursive)?;
    }
    tree.attach(place)?;
    bind.set_source(Some(place.to_owned())).set_uid_mappings(None).set_gid_mappings(None);
    if let Some(options) = bind.options_mut() {
        options.retain(|option| option != "idmap" && option != "ridmap");
    }
    Ok(())
}
