//! Copies of the sources of bind mounts, made before libcontainer mounts, in a mount namespace of
//! this process that ends with it. Two kinds of container need them:
//!
//! - One with a user namespace: libcontainer mounts as the container's root, who may not reach the
//!   sources, and ignores id mappings.
//! - One whose root filesystem has shared propagation: libcontainer would mount while all mounts of
//!   the host are shared with it, so that a mount below a bind (`/a/b` below `/a`) would appear on
//!   the host and stay there. Here all mounts become slaves of the host's, except the binds that
//!   are configured as shared.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{Mount, Spec};
use wherry_bundle::Bundle;

use crate::mount::MountError;
use crate::mount_tree::Tree;
use crate::propagation::Propagation;
use crate::userns;

/// Copies the sources of the bind mounts, and makes `spec` name the copies.
pub(crate) fn stage(bundle: &Bundle, spec: &mut Spec) -> Result<(), MountError> {
    let linux = spec.linux().as_ref();
    let namespace = linux.and_then(userns::configured).and_then(|found| found.path().clone());
    let is_shared = linux.and_then(Propagation::of_root).is_some_and(Propagation::is_shared);
    if namespace.is_none() && !is_shared {
        return Ok(());
    }
    let namespace = match &namespace {
        Some(path) => {
            let open = File::open(path).map_err(|error| MountError::path("open", path, error));
            Some(OwnedFd::from(open?))
        }
        None => None,
    };
    let binds: Vec<&mut Mount> =
        spec.mounts_mut().iter_mut().flatten().filter(|mount| is_bind(mount)).collect();
    if binds.is_empty() {
        return Ok(());
    }
    // A copy that is to stay shared with the host is made before this process's mounts are slaves.
    let early = binds
        .iter()
        .map(|bind| is_shared_bind(bind).then(|| copy(bundle, bind)).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    let place = bundle.state_root().join("@mounts");
    enter(&place).map_err(|error| MountError::path("mount at", &place, error))?;
    for ((number, bind), tree) in binds.into_iter().enumerate().zip(early) {
        let destination = bind.destination().clone();
        stage_bind(bundle, bind, tree, namespace.as_ref(), &place.join(number.to_string()))
            .map_err(|source| MountError::At { destination, source: Box::new(source) })?;
    }
    Ok(())
}

pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || has_option(mount, "bind")
        || has_option(mount, "rbind")
}

fn is_shared_bind(mount: &Mount) -> bool {
    Propagation::of_mount(mount).is_some_and(Propagation::is_shared)
}

fn has_option(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|other| other == option)
}

/// Enters a new mount namespace whose mounts are slaves of the host's, and mounts a tmpfs at
/// `place` there.
fn enter(place: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    let data = Some("mode=755");
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, data)?;
    Ok(())
}

fn copy(bundle: &Bundle, bind: &Mount) -> Result<Tree, MountError> {
    let source = bind.source().as_ref().ok_or(MountError::NoSource)?;
    Tree::copy(&bundle.path().join(source), has_option(bind, "rbind"))
}

fn stage_bind(
    bundle: &Bundle,
    bind: &mut Mount,
    tree: Option<Tree>,
    namespace: Option<&OwnedFd>,
    place: &Path,
) -> Result<(), MountError> {
    let tree = tree.map_or_else(|| copy(bundle, bind), Ok)?;
    let (uids, gids) = (bind.uid_mappings().as_deref(), bind.gid_mappings().as_deref());
    let recursive = has_option(bind, "ridmap");
    if uids.is_some() || gids.is_some() {
        tree.map(&userns::create(uids, gids)?, recursive)?;
    } else if recursive || has_option(bind, "idmap") {
        let namespace = namespace.ok_or(MountError::NoUserNamespace)?;
        tree.map(namespace, recursive)?;
    }
    tree.attach(place)?;
    bind.set_source(Some(place.to_owned())).set_uid_mappings(None).set_gid_mappings(None);
    if let Some(options) = bind.options_mut() {
        options.retain(|option| option != "idmap" && option != "ridmap");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use nix::mount::{MntFlags, umount2};
    use serde_json::json;

    use super::*;

    /// The propagation tags of the mount at `place`, in the mount namespace of this thread.
    fn tags(place: &Path) -> Vec<String> {
        let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.rfind(|line| Path::new(line[4]) == place).unwrap();
        line[6..].iter().take_while(|tag| **tag != "-").map(|tag| (*tag).to_owned()).collect()
    }

    fn shared_tmpfs() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            "mount -t tmpfs none {0} && mount --make-shared {0} && mkdir {0}/below",
            directory.path().display()
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        directory
    }

    #[test]
    fn only_a_shared_bind_of_a_shared_root_stays_shared_with_the_host() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (bundle, shared, slave) =
            (tempfile::tempdir().unwrap(), shared_tmpfs(), shared_tmpfs());
        let bind = |source: &tempfile::TempDir, propagation: &str| {
            json!({"destination": "/x", "type": "bind", "source": source.path(),
                "options": ["rbind", propagation]})
        };
        let mut config = serde_json::to_value(Spec::default()).unwrap();
        config["linux"]["rootfsPropagation"] = json!("rshared");
        config["mounts"] = json!([bind(&shared, "rshared"), bind(&slave, "rprivate")]);
        let mut spec: Spec = serde_json::from_value(config).unwrap();
        let thread = || {
            stage(&Bundle::new(bundle.path(), "x"), &mut spec).unwrap();
            let staged = spec.mounts().iter().flatten().map(|bind| bind.source().clone().unwrap());
            let staged: Vec<_> = staged.collect();
            let (of_shared, of_slave) = (tags(&staged[0]), tags(&staged[1]));
            assert!(of_shared[0].starts_with("shared:"), "{of_shared:?}");
            assert!(of_slave[0].starts_with("master:"), "{of_slave:?}");
            for place in &staged {
                let none = None::<&str>;
                let below = place.join("below");
                mount(Some("none"), &below, Some("tmpfs"), MsFlags::empty(), none).unwrap();
                fs::write(below.join("file"), "x").unwrap();
            }
        };
        thread::scope(|scope| scope.spawn(thread).join().unwrap());
        let appears = [&shared, &slave].map(|source| source.path().join("below/file").exists());
        for source in [&shared, &slave] {
            // One of the two has no mount below.
            let _ = umount2(&source.path().join("below"), MntFlags::MNT_DETACH);
            umount2(source.path(), MntFlags::MNT_DETACH).unwrap();
        }
        assert_eq!(appears, [true, false]);
    }

    #[test]
    fn the_binds_of_any_other_container_are_mounted_from_their_sources() {
        let mut spec = Spec::default();
        let before = spec.clone();
        stage(&Bundle::new("/nowhere".as_ref(), "x"), &mut spec).unwrap();
        assert_eq!(spec, before);
    }
}
