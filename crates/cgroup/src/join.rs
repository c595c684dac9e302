//! Moving this process into a container's cgroup.

use std::fs;
use std::path::Path;

use crate::path::{CgroupName, Hierarchy, directories};
use crate::{CgroupError, is_unified};

/// Moves this process, which has a single thread, into a cgroup that exists.
///
/// On version 1 a thread that moves itself through `tasks` does not wait for an RCU grace period,
/// as a write to `cgroup.procs` does: see [`crate::start_grace_period`].
///
/// # Errors
/// If the kernel refuses; the text names the file.
pub fn join(name: &CgroupName) -> Result<(), CgroupError> {
    if is_unified() {
        return directories(&name.path, name.systemd)
            .iter()
            .try_for_each(|directory| write(&directory.join("cgroup.procs")));
    }
    join_v1(&name.path)
}

/// Moves this thread into a cgroup of each hierarchy of version 1.
///
/// # Errors
/// As [`join()`].
pub fn join_v1(path: &Path) -> Result<(), CgroupError> {
    Hierarchy::all().iter().try_for_each(|each| write(&each.directory(path).join("tasks")))
}

fn write(file: &Path) -> Result<(), CgroupError> {
    // 0: the writer itself.
    fs::write(file, "0").map_err(|source| CgroupError::Join { path: file.to_owned(), source })
}
