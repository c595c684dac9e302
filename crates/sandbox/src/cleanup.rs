//! Undoing what a container needed: its processes, cgroup, mounts and state.
//!
//! Works from the bundle alone, because it also runs when the daemon that made all this is dead.
//! Each step is tried whatever became of the one before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::bundle::Bundle;
use crate::config::Config;
use crate::hooks::{Batch, Moment};
use crate::process::Reaper;
use crate::protocol::Mount;
use crate::{cgroup, making};

/// How long those who still make a process of the container are waited for. They end as soon as what
/// they have made is killed; containerd gives `delete` five seconds.
const MAKERS: Duration = Duration::from_secs(3);

/// Takes hold of the overlay that is a container's root filesystem. When its last user lets go of one, the kernel writes out all
/// of the filesystem that its layers are in; with this it is the holder who waits for that, and not [`container`]. None:
/// `rootfs` is anything else, as a device, which its owner takes away as soon as it is unmounted; or an overlay whose upper layer
/// the kernel refuses to mount again until then.
#[must_use]
pub fn hold(bundle: &Bundle, rootfs: &[Mount]) -> Option<File> {
    let [Mount { fstype, options, .. }] = rootfs else { return None };
    if fstype != "overlay" || !options.iter().any(|option| option == "index=off") {
        return None;
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(bundle.rootfs()).ok()
}

/// Removes all that is left of a container but its bundle, and has its poststop hooks run. Returns
/// what could not be removed, one sentence each. `reaper`: see [`Batch::run`].
#[must_use]
pub fn container(bundle: &Bundle, reaper: Option<&Reaper>) -> Vec<String> {
    let config = bundle.config().ok();
    let start = Instant::now();
    loop {
        // Asked before anything is looked at: what comes into being after that is not seen.
        let nobody = making::none(bundle);
        // Nothing was made, or all is gone already: what the configuration names is somebody else's, and the
        // hooks have been run.
        let used = bundle.is_used();
        if nobody.is_some() || start.elapsed() > MAKERS {
            let left = if used { undo(bundle, config.as_ref(), reaper) } else { Vec::new() };
            if nobody.is_some() {
                making::remove(bundle);
            }
            return left;
        }
        // Those who make are waited for, and killed where they are in the cgroup already.
        if let Some(config) = config.as_ref().filter(|_| used) {
            let _ = remove_cgroup(bundle, config);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn undo(bundle: &Bundle, config: Option<&Config>, reaper: Option<&Reaper>) -> Vec<String> {
    // First, as it ends who may still use the mounts.
    let mut left: Vec<String> =
        config.and_then(|config| remove_cgroup(bundle, config).err()).into_iter().collect();
    left.extend(unmount(&bundle.layers()));
    left.extend(unmount(&bundle.rootfs()));
    if let Some(config) = config {
        // A hook that fails is logged, and nothing else.
        let _ = Batch::new(Moment::Poststop, bundle, config).run(None, reaper);
    }
    bundle.remove_state();
    left
}

fn remove_cgroup(bundle: &Bundle, config: &Config) -> Result<(), String> {
    match bundle.cgroup(config, false) {
        Ok(name) => cgroup::remove(&name.path),
        // What is no name of a cgroup never became one.
        Err(_) => Ok(()),
    }
}

/// Unmounts all that is mounted at `path`, however many lie on each other. Returns what could not be.
fn unmount(path: &Path) -> Vec<String> {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Still used by a process that is about to end: it goes with its last user.
            Err(Errno::EBUSY) => {
                if let Err(errno) = umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                {
                    return vec![format!("cannot unmount {}: {errno}", path.display())];
                }
            }
            // Nothing mounted, or no such directory.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Vec::new(),
            Err(errno) => return vec![format!("cannot unmount {}: {errno}", path.display())],
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
