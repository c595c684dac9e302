//! Cleanup: removes a container's processes, cgroup, mounts and state.
//!
//! It needs only the bundle, because it also runs when the daemon that set the container up is
//! dead; a daemon that has parsed the configuration passes what cleanup needs of it. Every step is
//! tried, also after a failed one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use wherry_bundle::hooks::{Batch, Moment};
use wherry_bundle::{Bundle, Config, setup_lock};
use wherry_cgroup::{CgroupError, CgroupName};
use wherry_protocol::Mount;
use wherry_sys::reaper::Reaper;

use crate::pod::members::{self, Member};

/// How long cleanup waits for processes that still set up the container. They end as soon as the
/// processes that they have forked are killed; containerd gives `delete` five seconds.
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

/// What cleanup needs of a container's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Remains {
    /// The cgroup's path. None if it is invalid: Create refuses such a path.
    cgroup: Option<PathBuf>,
    /// The poststop hooks, if there are any: most containers have none.
    poststop: Option<Batch>,
}

impl Remains {
    /// From a configuration that was parsed.
    #[must_use]
    pub fn new(bundle: &Bundle, config: &Config) -> Remains {
        let cgroup = CgroupName::parse(config.cgroups_path(), bundle.id(), false);
        let poststop = Batch::new(Moment::Poststop, bundle, config);
        Remains {
            cgroup: cgroup.ok().map(|name| name.path),
            poststop: (!poststop.is_empty()).then_some(poststop),
        }
    }

    /// Parses the configuration of a bundle, for a process that did not create the container. None
    /// if it cannot be read, which is logged if a container was created: then only mounts and state
    /// are removed.
    #[must_use]
    pub fn read(bundle: &Bundle) -> Option<Remains> {
        match bundle.config() {
            Ok(config) => Some(Remains::new(bundle, &config)),
            Err(error) => {
                // The bundle of a pod has no configuration.
                if bundle.is_used() && !bundle.is_pod() {
                    log::warn!("cannot remove the cgroup of {}: {error}", bundle.id());
                }
                None
            }
        }
    }

    fn remove_cgroup(&self) -> Result<(), CgroupError> {
        self.cgroup.as_deref().map_or(Ok(()), wherry_cgroup::remove)
    }
}

/// Opens the overlay that is a container's root filesystem, so that [`container`] does not release
/// its last reference: then the kernel writes back the whole filesystem of the layers. The owner of
/// this descriptor waits for that instead.
///
/// None for any other root filesystem, such as a block device, which its owner removes as soon as
/// it is unmounted; and for an overlay whose upper layer the kernel refuses to mount again until
/// then.
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
/// shim is dead. Returns what could not be removed. `remains`: [`Remains::new`] or
/// [`Remains::read`]; `reaper`: see [`Batch::run`].
#[must_use]
pub fn container(
    bundle: &Bundle,
    remains: Option<&Remains>,
    reaper: Option<&Reaper>,
) -> Vec<CleanupError> {
    if !bundle.is_pod() {
        return clean(bundle, remains, reaper);
    }
    let mut errors = Vec::new();
    for Member { bundle, config } in members::list(bundle) {
        let remains = config.map(|config| Remains::new(&bundle, &config));
        errors.extend(clean(&bundle, remains.as_ref(), reaper));
    }
    // The cgroup and hooks of a configuration beside a pod's files were never used.
    errors.extend(clean(bundle, None, reaper));
    errors
}

fn clean(bundle: &Bundle, remains: Option<&Remains>, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    if !bundle.path().exists() {
        // containerd unmounts everything below a bundle before it deletes it. The cgroup may exist.
        let removed = remains.map_or(Ok(()), Remains::remove_cgroup);
        return removed.err().map(CleanupError::from).into_iter().collect();
    }
    let start = Instant::now();
    loop {
        // The lock first: objects that a setup creates after the bundle was read would be missed.
        let lock = setup_lock::try_exclusive(bundle);
        // Unused: Create has made nothing, or an earlier cleanup removed all of it and ran the
        // hooks. The cgroup that the configuration names may be another container's.
        let used = bundle.is_used();
        if lock.is_some() || start.elapsed() > SETUP_DEADLINE {
            let errors = if used { undo(bundle, remains, reaper) } else { Vec::new() };
            if let Some(lock) = lock {
                setup_lock::remove(bundle, &lock);
            }
            return errors;
        }
        // Kill the processes that the setup has put into the cgroup, so that it ends sooner.
        if let Some(remains) = remains.filter(|_| used) {
            // Tried again below, where an error counts.
            let _ = remains.remove_cgroup();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn undo(bundle: &Bundle, remains: Option<&Remains>, reaper: Option<&Reaper>) -> Vec<CleanupError> {
    // The cgroup first: its processes may use the mounts.
    let mut errors: Vec<CleanupError> = remains
        .and_then(|remains| remains.remove_cgroup().err())
        .map(CleanupError::from)
        .into_iter()
        .collect();
    for mounted in [bundle.layers(), bundle.rootfs(), bundle.pod_shm()] {
        if let Err(source) = unmount(&mounted) {
            errors.push(CleanupError::Unmount { path: mounted, source });
        }
    }
    if let Some(poststop) = remains.and_then(|remains| remains.poststop.as_ref()) {
        // A failure of a poststop hook is logged and has no other effect.
        let _ = poststop.run(None, reaper);
    }
    bundle.remove_state();
    errors
}

/// Unmounts every mount at `path`, the topmost first.
fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // A process that is about to end uses it: detach it, so that its last user unmounts it.
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

    /// A bundle whose cgroup does not exist, with a poststop hook that counts its runs.
    fn used() -> (tempfile::TempDir, Bundle) {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path().join("runs");
        let config = format!(
            r#"{{"linux": {{"cgroupsPath": "/wherry-test-none/{}"}},
                "hooks": {{"poststop": [{{"path": "/bin/sh",
                    "args": ["sh", "-c", "echo x >> {}"]}}]}}}}"#,
            std::process::id(),
            runs.display()
        );
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        std::fs::create_dir_all(bundle.state()).unwrap();
        (directory, bundle)
    }

    fn runs(directory: &tempfile::TempDir) -> usize {
        let text = std::fs::read_to_string(directory.path().join("runs"));
        text.map_or(0, |text| text.lines().count())
    }

    #[test]
    fn a_container_is_removed_once_with_its_hooks() {
        let (directory, bundle) = used();
        let remains = Remains::read(&bundle).unwrap();
        for _ in 0..2 {
            assert!(container(&bundle, Some(&remains), None).is_empty());
            assert!(!bundle.is_used());
            assert_eq!(runs(&directory), 1);
        }
    }

    #[test]
    fn a_bundle_that_create_has_not_used_is_left_alone() {
        let (directory, bundle) = used();
        bundle.remove_state();
        assert!(container(&bundle, Remains::read(&bundle).as_ref(), None).is_empty());
        assert_eq!(runs(&directory), 0);
        assert!(directory.path().join("config.json").exists());
    }

    #[test]
    fn state_is_removed_also_without_a_configuration_that_can_be_read() {
        let (directory, bundle) = used();
        std::fs::write(directory.path().join("config.json"), "{").unwrap();
        let remains = Remains::read(&bundle);
        assert!(remains.is_none());
        assert!(container(&bundle, remains.as_ref(), None).is_empty());
        assert!(!bundle.is_used());
    }

    #[test]
    fn cleanup_waits_for_a_setup_and_removes_its_lock() {
        let (_directory, bundle) = used();
        let lock = wherry_bundle::SetupLock::shared(&bundle).unwrap();
        let released = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Time for the cleanup to begin; it may as well begin later.
                std::thread::sleep(Duration::from_millis(20));
                released.store(true, std::sync::atomic::Ordering::SeqCst);
                drop(lock);
            });
            assert!(container(&bundle, None, None).is_empty());
            assert!(released.load(std::sync::atomic::Ordering::SeqCst));
        });
        assert!(!bundle.path().join("wherry.lock").exists());
    }
}
