//! Making a container's cgroup, as far as libcgroups and systemd leave that to do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::place::{Hierarchy, below_root};
use super::{Cgroup, ROOT, is_unified, told};

/// Makes the cgroup that a configuration calls `path`, and those above it. On version 1 it has its limits then; on version
/// 2 libcgroups sets them, and systemd makes its own cgroups with theirs.
///
/// libcgroups would make them, too, but reads all mounts for each controller of version 1; on version 2 it fails when two
/// containers that begin at the same time need the same one, and a process can only be born in one that is there.
///
/// # Errors
/// A sentence, when one cannot be made, or the kernel refuses a limit.
pub fn make(path: &Path, systemd: bool, limits: Option<&LinuxResources>) -> Result<(), String> {
    match (is_unified(), systemd) {
        (false, _) => make_v1(path)?.limit_v1(limits.unwrap_or(&LinuxResources::default())),
        (true, false) => make_v2(path),
        (true, true) => Ok(()),
    }
}

fn make_v1(path: &Path) -> Result<Cgroup, String> {
    let mut directories = HashMap::new();
    for hierarchy in Hierarchy::all() {
        let directory = hierarchy.directory(path);
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
        if hierarchy.controllers.iter().any(|name| name == "cpuset") {
            inherit(&hierarchy.mount, &directory)?;
        }
        for controller in hierarchy.controllers {
            directories.insert(controller, directory.clone());
        }
    }
    Ok(Cgroup::V1(directories))
}

/// A set of processors or memory nodes that is empty takes nobody in: it becomes what its parent's is.
fn inherit(mount: &Path, directory: &Path) -> Result<(), String> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut empty = Vec::new();
        for directory in directory.ancestors() {
            let path = directory.join(file);
            let set = fs::read_to_string(&path).map_err(|error| failed(directory, &error))?;
            if directory == mount || !set.trim().is_empty() {
                let fill = |path: &PathBuf| fs::write(path, set.trim());
                empty.iter().rev().try_for_each(fill).map_err(|error| failed(directory, &error))?;
                break;
            }
            empty.push(path);
        }
    }
    Ok(())
}

fn make_v2(path: &Path) -> Result<(), String> {
    let mut directory = PathBuf::from(ROOT);
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for part in below_root(path).components() {
        // One by one, and as far as it goes: a limit that takes one which is missing is refused when it is set.
        for controller in controllers.split_whitespace() {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&directory, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn failed(directory: &Path, error: &io::Error) -> String {
    format!("cannot make cgroup {}: {error}", directory.display())
}

/// Sets in the cgroup of process `pid`, a scope of systemd's, what systemd has not set: it was not
/// told of the devices that the container may use, and knows no sets of processors or huge pages.
/// The others are set to what they are.
///
/// # Errors
/// A sentence, when the kernel refuses one.
pub fn complete(pid: i32, resources: &LinuxResources) -> Result<(), String> {
    let Some(Cgroup::V2(directory)) = Cgroup::of(pid) else { return Ok(()) };
    let failed = |error: &dyn std::error::Error| {
        format!("cannot set the limits of cgroup {}: {error}", directory.display())
    };
    let root = Path::new(ROOT);
    let below = directory.strip_prefix(root).map_err(|error| failed(&error))?;
    let manager =
        Manager::new(root.to_owned(), below.to_owned()).map_err(|error| failed(&error))?;
    let options = ControllerOpt {
        resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    manager.apply(&options).map_err(|error| failed(&error))?;
    // What it does not know it takes away when it reads its configuration again.
    if let Some(cpu) =
        resources.cpu().as_ref().filter(|cpu| cpu.cpus().is_some() || cpu.mems().is_some())
    {
        let mut sets = LinuxCpu::default();
        sets.set_cpus(cpu.cpus().clone()).set_mems(cpu.mems().clone());
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(sets));
        told::tell(&directory, &resources);
    }
    Ok(())
}
