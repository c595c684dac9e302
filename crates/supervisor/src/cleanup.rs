//! Cleanup: removes a container's processes, cgroup, mounts and state.
//!
//! It works from the bundle alone, because it also runs when the daemon that set the container up
//! is dead. Every step is tried, also after a failed one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use wherry_bundle::hooks::{Batch, Moment};
use wherry_bundle::{Bundle, Config, setup_lock};
use wherry_cgroup::{CgroupError, CgroupName};
use wherry_protocol::Mount;
use wherry_sys::reaper::Reaper;

use crate::pod::members::{self, Member};

/// How long cleanup waits for processes that still set up the container. They end as soon as what
/// they have made is killed; containerd gives `delete` five seconds.
const SETUP_DEADLINE: Duration = Duration::from_secs(3);

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A mount.
    #[error("cannot unmount {}: {source}", .path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Opens the overlay that is a container's root filesystem, so that [`container`] is not its last
/// user: with the last one the kernel writes back the whole filesystem of the layers, and the
/// holder of this descriptor waits for that.
///
/// None for any other root filesystem, as a block device, which its owner removes as soon as it is
/// unmounted; and for an overlay whose upper layer the kernel refuses to mount again until then.
#[must_use]
pub fn hold(bundle: &Bundle, rootfs: &[Mount]) -> Option<File> {
    let [Mount { fstype, options, .. }] = rootfs else { return None };
    if fstype != "overlay" || !options.iter().any(|option| option == "index=off") {
        return None;
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(bundle.rootfs()).ok()
}

/// Removes everything of a container except its bundle, and runs its poststop hooks; or everything
/// of a pod, with its containers: containerd before 2.3 does not clean up after these when the
/// shim is dead. Returns what could not be removed. `reaper`: see [`Batch::run`].
#[must_use]
pub fn container(bundle: &Bundle, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    if !bundle.is_pod() {
        return clean(bundle, bundle.config().ok(), reaper);
    }
    let members = members::list(bundle).into_iter();
    let mut errors: Vec<CleanupError> =
        members.flat_map(|Member { bundle, config }| member(&bundle, config, reaper)).collect();
    // The cgroup and hooks of a configuration beside a pod's files were never used.
    errors.extend(clean(bundle, None, reaper));
    errors
}

/// Removes a container of a pod. Without its bundle the cgroup alone may be left.
fn member(bundle: &Bundle, config: Option<Config>, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    if bundle.path().exists() {
        return clean(bundle, config, reaper);
    }
    let removed = config.map_or(Ok(()), |config| remove_cgroup(bundle, &config));
    removed.err().map(CleanupError::from).into_iter().collect()
}

fn clean(bundle: &Bundle, config: Option<Config>, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    let start = Instant::now();
    loop {
        // The lock first: objects that a setup creates after the bundle was read would be missed.
        let lock = setup_lock::try_exclusive(bundle);
        // Unused: nothing was made, or it was removed before, with its hooks. The cgroup that the
        // configuration names may be another container's.
        let used = bundle.is_used();
        if lock.is_some() || start.elapsed() > SETUP_DEADLINE {
            let errors = if used { undo(bundle, config.as_ref(), reaper) } else { Vec::new() };
            if let Some(lock) = lock {
                setup_lock::remove(bundle, &lock);
            }
            return errors;
        }
        // Kill what the setup has put into the cgroup already, so that it ends sooner.
        if let Some(config) = config.as_ref().filter(|_| used) {
            // Tried again below, where an error counts.
            let _ = remove_cgroup(bundle, config);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn undo(bundle: &Bundle, config: Option<&Config>, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    // The cgroup first: its processes may use the mounts.
    let mut errors: Vec<CleanupError> = config
        .and_then(|config| remove_cgroup(bundle, config).err())
        .map(CleanupError::from)
        .into_iter()
        .collect();
    for mounted in [bundle.layers(), bundle.rootfs(), bundle.pod_shm()] {
        if let Err(source) = unmount(&mounted) {
            errors.push(CleanupError::Unmount { path: mounted, source });
        }
    }
    if let Some(config) = config {
        // A failure of a poststop hook is logged and has no other effect.
        let _ = Batch::new(Moment::Poststop, bundle, config).run(None, reaper);
    }
    bundle.remove_state();
    errors
}

fn remove_cgroup(bundle: &Bundle, config: &Config) -> Result<(), CgroupError> {
    match CgroupName::parse(config.cgroups_path(), bundle.id(), false) {
        Ok(name) => wherry_cgroup::remove(&name.path),
        // Create refuses an invalid path.
        Err(_) => Ok(()),
    }
}

/// Unmounts every mount at `path`, the topmost first.
fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Used by a process that is about to end: unmounted with its last user.
            Err(Errno::EBUSY) => umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?,
            // Not a mount point, or no such directory.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_mounted_again_at_once_is_held() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("rootfs")).unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        let mount = |fstype: &str, options: &[&str]| Mount {
            fstype: fstype.to_owned(),
            source: fstype.to_owned(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let overlay = mount("overlay", &["index=off", "lowerdir=/a:/b"]);
        assert!(hold(&bundle, std::slice::from_ref(&overlay)).is_some());
        assert!(hold(&bundle, &[mount("overlay", &["lowerdir=/a:/b"])]).is_none());
        assert!(hold(&bundle, &[mount("ext4", &["index=off"])]).is_none());
        assert!(hold(&bundle, &[overlay.clone(), overlay]).is_none());
        assert!(hold(&bundle, &[]).is_none());
    }
}
