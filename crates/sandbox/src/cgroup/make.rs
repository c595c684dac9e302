//! What libcgroups leaves to do when a container's cgroup is made.

use std::fs;
use std::path::Path;

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::place::below_root;
use super::{Cgroup, ROOT, is_unified, told};

/// Makes the cgroups above the one that a configuration calls `path`. libcgroups makes them on version
/// 2, but fails when two containers that begin at the same time need the same one.
///
/// # Errors
/// A sentence, when one cannot be made.
pub fn make_parents(path: &Path, systemd: bool) -> Result<(), String> {
    if systemd || !is_unified() {
        return Ok(());
    }
    let path = Path::new(ROOT).join(below_root(path));
    let parent = path.parent().unwrap_or(&path);
    fs::create_dir_all(parent)
        .map_err(|error| format!("cannot make cgroup {}: {error}", parent.display()))
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
