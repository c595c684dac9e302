//! Creating a container's cgroup.
//!
//! libcgroups could do this, but on version 1 it parses all mounts for each controller, and on
//! version 2 it fails when two containers that start at the same time need the same parent.
//! Besides, a process can only be cloned into a cgroup that exists.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use oci_spec::runtime::LinuxResources;

use crate::join::join;
use crate::path::{CgroupName, Hierarchy, below_root};
use crate::{Cgroup, CgroupError, ROOT, is_unified};

/// Creates the cgroup and those above it. On version 1 it also sets the limits; on version 2
/// libcgroups sets them later, and systemd creates its own cgroups with their limits.
///
/// # Errors
/// If a directory cannot be created, or the kernel refuses a limit.
pub fn create(name: &CgroupName, limits: Option<&LinuxResources>) -> Result<(), CgroupError> {
    let none = LinuxResources::default();
    match (is_unified(), name.systemd) {
        (false, _) => create_v1(&name.path)?.limit_v1(limits.unwrap_or(&none)),
        (true, false) => create_v2(Path::new(ROOT), &name.path, true),
        (true, true) => Ok(()),
    }
}

/// Creates a cgroup without limits, and moves this process, which has a single thread, into it. The
/// path is that of a cgroup also if it has the form of systemd's driver.
///
/// # Errors
/// If a directory cannot be created, or the kernel refuses the move.
pub fn create_and_join(path: &Path) -> Result<(), CgroupError> {
    let name = CgroupName { path: path.to_owned(), systemd: false };
    if is_unified() {
        create_v2(Path::new(ROOT), path, true)?;
    } else {
        create_v1(path)?;
    }
    join(&name)
}

fn create_v1(path: &Path) -> Result<Cgroup, CgroupError> {
    let mut directories = HashMap::new();
    for hierarchy in Hierarchy::all() {
        let directory = hierarchy.directory(path);
        fs::create_dir_all(&directory).map_err(|error| CgroupError::create(&directory, error))?;
        if hierarchy.controllers.iter().any(|name| name == "cpuset") {
            inherit(&hierarchy.mount, &directory)?;
        }
        for controller in hierarchy.controllers {
            directories.insert(controller, directory.clone());
        }
    }
    if let Some(mount) = Hierarchy::hybrid() {
        create_v2(&mount, path, false)?;
    }
    Ok(Cgroup::V1(directories))
}

/// Copies the parent's set of processors and memory nodes where it is empty: no process can join a
/// cgroup with an empty set.
fn inherit(mount: &Path, directory: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut empty = Vec::new();
        for directory in directory.ancestors() {
            let failed = |error: io::Error| CgroupError::create(directory, error);
            let path = directory.join(file);
            let set = fs::read_to_string(&path).map_err(failed)?;
            if directory == mount || !set.trim().is_empty() {
                let fill = |path: &PathBuf| fs::write(path, set.trim());
                empty.iter().rev().try_for_each(fill).map_err(failed)?;
                break;
            }
            empty.push(path);
        }
    }
    Ok(())
}

fn create_v2(root: &Path, path: &Path, delegate: bool) -> Result<(), CgroupError> {
    let mut directory = root.to_owned();
    let controllers = if delegate {
        fs::read_to_string(root.join("cgroup.controllers"))
            .map_err(|error| CgroupError::create(&root.join(path), error))?
    } else {
        String::new()
    };
    for part in below_root(path).components() {
        // One by one, because the kernel may refuse some: a limit of a missing controller fails
        // when it is set.
        for controller in controllers.split_whitespace() {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::create(&directory, error));
            }
            _ => {}
        }
    }
    Ok(())
}
