//! Undoing what a container needed: its processes, cgroup, mounts and state.
//!
//! Works from the bundle alone, because it also runs when the daemon that made all this is dead.
//! Each step is tried whatever became of the one before.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::bundle::Bundle;
use crate::config::Config;
use crate::hooks::{Batch, Moment};
use crate::process::Reaper;
use crate::{cgroup, making};

/// How long those who still make a process of the container are waited for. They end as soon as what
/// they have made is killed; containerd gives `delete` five seconds.
const MAKERS: Duration = Duration::from_secs(3);

/// Removes all that is left of a container but its bundle, and has its poststop hooks run. Returns
/// what could not be removed, one sentence each. `reaper`: see [`Batch::run`].
#[must_use]
pub fn container(bundle: &Bundle, reaper: Option<&Reaper>) -> Vec<String> {
    let mut left = Vec::new();
    let config = bundle.config().ok();
    let start = Instant::now();
    let (used, nobody) = loop {
        // Asked before anything is looked at: what comes into being after that is not seen.
        let nobody = making::none(bundle);
        // Nothing was made, or all is gone already: what the configuration names is somebody else's, and the
        // hooks have been run.
        let used = bundle.is_used();
        let removed = match &config {
            Some(config) if used => remove_cgroup(bundle, config),
            _ => Ok(()),
        };
        if nobody.is_some() || start.elapsed() > MAKERS {
            left.extend(removed.err());
            break (used, nobody);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if used {
        unmount(&bundle.layers(), &mut left);
        unmount(&bundle.rootfs(), &mut left);
        if let Some(config) = &config {
            // A hook that fails is logged, and nothing else.
            let _ = Batch::new(Moment::Poststop, bundle, config).run(None, reaper);
        }
        bundle.remove_state();
    }
    if nobody.is_some() {
        making::remove(bundle);
    }
    left
}

fn remove_cgroup(bundle: &Bundle, config: &Config) -> Result<(), String> {
    match bundle.cgroup(config, false) {
        Ok(name) => cgroup::remove(&name.path),
        // What is no name of a cgroup never became one.
        Err(_) => Ok(()),
    }
}

/// Unmounts all that is mounted at `path`, however many lie on each other.
fn unmount(path: &Path, left: &mut Vec<String>) {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Still used by a process that is about to end: it goes with its last user.
            Err(Errno::EBUSY) => {
                if let Err(errno) = umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                {
                    left.push(format!("cannot unmount {}: {errno}", path.display()));
                    return;
                }
            }
            // Nothing mounted, or no such directory.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return,
            Err(errno) => {
                left.push(format!("cannot unmount {}: {errno}", path.display()));
                return;
            }
        }
    }
}
