//! Undoing what a container needed: its processes, cgroup, mounts and state.
//!
//! Works from the bundle alone, because it also runs when the daemon that made all this is dead.
//! Each step is tried whatever became of the one before.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::bundle::Bundle;
use crate::cgroup;
use crate::hooks::{Batch, Moment};
use crate::process::Reaper;

/// Removes all that is left of a container but its bundle, and has its poststop hooks run. Returns
/// what could not be removed, one sentence each. `reaper`: see [`Batch::run`].
#[must_use]
pub fn container(bundle: &Bundle, systemd_cgroup: bool, reaper: Option<&Reaper>) -> Vec<String> {
    let mut left = Vec::new();
    // Nothing was made, or all is gone already: what the configuration names is somebody else's, and the hooks
    // have been run.
    if !bundle.is_used() {
        return left;
    }
    let spec = bundle.spec();
    // A configuration that cannot be read, or names no cgroup that can be, never got one.
    if let Ok(spec) = &spec
        && let Ok(name) = bundle.cgroup(spec, systemd_cgroup)
        && let Err(sentence) = cgroup::remove(&name.path, name.systemd, bundle.id())
    {
        left.push(sentence);
    }
    unmount(&bundle.layers(), &mut left);
    unmount(&bundle.rootfs(), &mut left);
    if let Ok(spec) = &spec {
        // A hook that fails is logged, and nothing else.
        let _ = Batch::new(Moment::Poststop, bundle, spec).run(None, reaper);
    }
    bundle.remove_state();
    left
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
