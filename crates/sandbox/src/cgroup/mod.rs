//! A container's cgroup, as the daemon uses it: who is in it, what it used ([`usage`]), whether
//! the kernel had to kill for memory, and its removal.
//!
//! It is found by what the kernel says of the container's first process, which is right for
//! every version and driver. libcgroups, which made it, removes it.

pub mod oom;
pub mod update;
pub mod usage;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcgroups::common::{
    CgroupConfig, CgroupManager, CgroupSetup, DEFAULT_CGROUP_ROOT, FreezerState,
    create_cgroup_manager, get_cgroup_setup,
};

use crate::process::signal_each;

/// The directories of the cgroup that a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// Version 1: one for each controller.
    V1(HashMap<String, PathBuf>),
    /// Version 2: one.
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup of process `pid`. None when there is no such process.
    #[must_use]
    pub fn of(pid: i32) -> Option<Cgroup> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let unified = matches!(get_cgroup_setup().ok()?, CgroupSetup::Unified);
        Some(Cgroup::parse(&groups, unified, Path::new(DEFAULT_CGROUP_ROOT)))
    }

    /// Reads the lines `id:controllers:path` of `/proc/<pid>/cgroup`.
    fn parse(groups: &str, unified: bool, root: &Path) -> Cgroup {
        let mut directories = HashMap::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            if unified && controllers.is_empty() {
                return Cgroup::V2(root.join(path));
            }
            for controller in controllers.split(',').filter(|name| !name.is_empty()) {
                // Controllers that share a hierarchy have a symbolic link each.
                let mount = controller.strip_prefix("name=").unwrap_or(controller);
                directories.insert(controller.to_owned(), root.join(mount).join(path));
            }
        }
        Cgroup::V1(directories)
    }

    /// The directory in which `controller` keeps its files.
    fn directory(&self, controller: &str) -> Option<&Path> {
        match self {
            Cgroup::V1(directories) => directories.get(controller).map(PathBuf::as_path),
            Cgroup::V2(directory) => Some(directory),
        }
    }

    /// The processes in it and below, by their pids in this process's namespace. Empty when it
    /// is gone.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        // On version 1 a controller that the configuration gives no value may not have been
        // joined; these three always are.
        if let Some(directory) =
            ["devices", "memory", "pids"].iter().find_map(|name| self.directory(name))
        {
            collect(directory, &mut pids);
        }
        pids
    }

    /// Freezes all processes in it, or lets them go on. Blocks until they are, a second at most.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let directory = self.directory("freezer").ok_or(io::ErrorKind::Unsupported)?;
        let (file, value, report, done) = match (self, frozen) {
            (Cgroup::V1(_), true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (Cgroup::V1(_), false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            (Cgroup::V2(_), true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (Cgroup::V2(_), false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", directory.join(file).display()))
        };
        for _ in 0..1000 {
            // On version 1 a process that forked meanwhile takes a second attempt.
            fs::write(directory.join(file), value).map_err(failed)?;
            let state = fs::read_to_string(directory.join(report)).map_err(failed)?;
            if state.lines().any(|line| line == done) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if frozen {
            // Half frozen is worse than running.
            let _ = self.freeze(false);
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }

    /// How many processes in it the kernel has killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let file = match self {
            Cgroup::V1(_) => "memory.oom_control",
            Cgroup::V2(_) => "memory.events",
        };
        self.directory("memory")
            .and_then(|directory| usage::keyed(&directory.join(file)).get("oom_kill").copied())
            .unwrap_or(0)
    }
}

fn collect(directory: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// Whether a cgroup path of a configuration has the form `slice:prefix:name` that systemd's driver
/// uses. Docker says which driver it means by nothing else.
#[must_use]
pub fn is_systemd_path(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.starts_with('/') && text.split(':').count() == 3)
}

/// Whether there are processes in the cgroup that a configuration calls `path`.
#[must_use]
pub fn is_used(path: &Path, systemd: bool, id: &str) -> bool {
    create_cgroup_manager(CgroupConfig {
        cgroup_path: path.to_owned(),
        systemd_cgroup: systemd,
        container_name: id.to_owned(),
    })
    .is_ok_and(|manager| manager.get_all_pids().is_ok_and(|pids| !pids.is_empty()))
}

/// Kills every process in the cgroup that a configuration calls `path`, and removes it. One that
/// is not there is removed already.
///
/// # Errors
/// A sentence, when a process does not go away.
pub fn remove(path: &Path, systemd: bool, id: &str) -> Result<(), String> {
    let failed =
        |error: &dyn std::error::Error| format!("cannot remove cgroup {}: {error}", path.display());
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: path.to_owned(),
        systemd_cgroup: systemd,
        container_name: id.to_owned(),
    })
    .map_err(|error| failed(&error))?;
    // A frozen process does not die; that there is nothing to thaw is no fault.
    let _ = manager.freeze(FreezerState::Thawed);
    // A process that forks while it is being killed leaves a child: go on until none is left.
    for _ in 0..100 {
        match manager.get_all_pids() {
            Ok(pids) if !pids.is_empty() => {
                signal_each(
                    &pids.iter().map(|pid| pid.as_raw()).collect::<Vec<_>>(),
                    libc::SIGKILL,
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => break,
        }
    }
    manager.remove().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_are_those_that_the_kernel_names() {
        let root = Path::new("/c");
        let v1 = "4:cpu,cpuacct:/a\n3:memory:/docker/x:y\n1:name=systemd:/s\n0::/u\n";
        let group = Cgroup::parse(v1, false, root);
        assert_eq!(group.directory("memory"), Some(Path::new("/c/memory/docker/x:y")));
        assert_eq!(group.directory("cpuacct"), Some(Path::new("/c/cpuacct/a")));
        assert_eq!(group.directory("pids"), None);
        let v2 = Cgroup::parse("0::/system.slice/x.scope\n", true, root);
        assert_eq!(v2, Cgroup::V2("/c/system.slice/x.scope".into()));
    }

    #[test]
    fn this_process_is_in_its_own_cgroup() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(Cgroup::of(pid).unwrap().pids().contains(&pid));
    }

    #[test]
    fn the_driver_shows_in_the_path() {
        assert!(is_systemd_path(Path::new("system.slice:docker:abc")));
        assert!(!is_systemd_path(Path::new("/docker/abc")));
        assert!(!is_systemd_path(Path::new("/a:b:c")));
    }
}
