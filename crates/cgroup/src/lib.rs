//! A container's cgroup on version 1 and version 2, also as a scope that systemd manages.
//!
//! - [`CgroupName`]: the `cgroupsPath` of a configuration. [`create()`], [`join()`], [`remove()`].
//! - [`Cgroup`]: the directories of a cgroup that exists: members, signals, freezer, limits
//!   ([`Cgroup::update`]), statistics ([`usage`]), out-of-memory kills ([`oom`]).
//!
//! The daemon finds the cgroup in `/proc/PID/cgroup` of the container's first process, which is
//! correct for every version and driver. `delete`, which runs when the daemon is dead, takes the
//! path from the configuration.

mod create;
mod error;
mod join;
mod limits_v1;
pub mod meter;
pub mod oom;
mod path;
mod rcu_prefetch;
mod remove;
mod systemd;
mod update;
pub mod usage;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wherry_sys::process::Process;

/// The mount point of the hierarchies.
pub const ROOT: &str = "/sys/fs/cgroup";

pub use create::{create, create_and_join};
pub use error::CgroupError;
pub use join::{join, join_v1};
pub use meter::Meter;
pub use path::{CgroupName, Hierarchy, PathError, below_root, is_systemd_path, is_used};
pub use rcu_prefetch::start_grace_period;
pub use remove::remove;
pub use systemd::set_properties;

/// The directories of the cgroup that a process is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// Version 1: one directory per controller.
    V1(HashMap<String, PathBuf>),
    /// Version 2: one directory.
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup of process `pid`. None if the process does not exist, or ends meanwhile.
    #[must_use]
    pub fn of(pid: i32) -> Option<Cgroup> {
        Cgroup::of_process(&Process::new(pid))
    }

    /// The cgroup of a process. None if it has ended.
    #[must_use]
    pub fn of_process(process: &Process) -> Option<Cgroup> {
        let read = |directory: &Path| fs::read_to_string(directory.join("cgroup"));
        let groups = process.inspect(read).ok()?;
        Some(Cgroup::parse(&groups, is_unified(), Path::new(ROOT)))
    }

    /// The cgroup at `path`, such as `/kubepods/pod1`, below the root of each hierarchy.
    #[must_use]
    pub fn at(path: &Path) -> Cgroup {
        let path = below_root(path);
        if is_unified() {
            return Cgroup::V2(Path::new(ROOT).join(path));
        }
        let directories = Hierarchy::all().into_iter().flat_map(|hierarchy| {
            let directory = hierarchy.mount.join(&path);
            let named = move |controller| (controller, directory.clone());
            hierarchy.controllers.into_iter().map(named)
        });
        Cgroup::V1(directories.collect())
    }

    /// Parses the lines `id:controllers:path` of `/proc/<pid>/cgroup`.
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

    /// The directory with the files of `controller`.
    #[must_use]
    pub fn directory(&self, controller: &str) -> Option<&Path> {
        match self {
            Cgroup::V1(directories) => directories.get(controller).map(PathBuf::as_path),
            Cgroup::V2(directory) => Some(directory),
        }
    }

    /// Whether it still exists. systemd removes a scope as soon as it is empty.
    fn exists(&self) -> bool {
        match self {
            Cgroup::V1(directories) => directories.values().any(|directory| directory.exists()),
            Cgroup::V2(directory) => directory.exists(),
        }
    }

    /// The processes in it and below, by their pids in this process's pid namespace. Empty if the
    /// cgroup is gone.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        if let Some(directory) = self.members() {
            collect(directory, &mut pids);
        }
        pids
    }

    /// Sends `signal` to each process in it and below, except to `spared`.
    pub fn signal(&self, signal: u32, spared: Option<i32>) {
        if let Some(directory) = self.members() {
            signal_all(directory, signal, spared);
        }
    }

    /// The directory that all its processes are in. On version 1 a controller without a configured
    /// value may not have been joined; these three always are.
    fn members(&self) -> Option<&Path> {
        ["devices", "memory", "pids"].iter().find_map(|name| self.directory(name))
    }

    /// Freezes or thaws all processes in it. Blocks until the kernel has done so, at most one
    /// second. Thawing a cgroup that is gone succeeds.
    ///
    /// # Errors
    /// If the kernel refuses, or takes longer.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let missing = || CgroupError::no_controller("freezer.state", "freezer");
        let directory = self.directory("freezer").ok_or_else(missing)?;
        let (file, value, report, done) = match (self, frozen) {
            (Cgroup::V1(_), true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (Cgroup::V1(_), false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            (Cgroup::V2(_), true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (Cgroup::V2(_), false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let failed = |source: io::Error| CgroupError::Set {
            path: directory.join(file),
            value: value.to_owned(),
            source,
        };
        let request = || {
            fs::write(directory.join(file), value)?;
            fs::read_to_string(directory.join(report))
        };
        for _ in 0..1000 {
            // On version 1 a process that forked meanwhile takes a second attempt.
            match request() {
                Ok(state) if state.lines().any(|line| line == done) => return Ok(()),
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) if !frozen && !directory.exists() => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        if frozen {
            // A half-frozen container is worse than a running one. The caller gets the first error.
            let _ = self.freeze(false);
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }
}

/// Whether this machine has only version 2.
#[must_use]
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn collect(directory: &Path, pids: &mut Vec<i32>) {
    // Every cgroup has this file.
    let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) else { return };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// Sends `signal` to each process in the cgroup at `directory` and below, except to `spared`. Does
/// nothing in a cgroup that this process is in, or in the root of a hierarchy: neither is a
/// container's.
fn signal_all(directory: &Path, signal: u32, spared: Option<i32>) {
    let mut pids = Vec::new();
    collect(directory, &mut pids);
    let own = std::process::id();
    if pids.is_empty()
        || pids.iter().any(|pid| u32::try_from(*pid) == Ok(own))
        || is_root(directory)
    {
        return;
    }
    // Version 2 since Linux 5.14 kills all in one step, also those that are forked meanwhile.
    let kill = signal == libc::SIGKILL.unsigned_abs() && spared.is_none();
    if kill && fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    pids.retain(|pid| Some(*pid) != spared);
    let processes: Vec<Process> = pids.into_iter().map(Process::new).collect();
    // Between reading a pid and opening its pidfd the process may have ended, and the pid may be
    // another's. A process keeps its pid until it is reaped: if the pid is still in the cgroup, the
    // pidfd is that of the process, or of one that has ended and takes no signal.
    let mut still = Vec::new();
    collect(directory, &mut still);
    for process in processes.iter().filter(|process| still.contains(&process.pid())) {
        // It may have ended.
        let _ = process.signal(signal);
    }
}

fn is_root(directory: &Path) -> bool {
    let root = Path::new(ROOT);
    directory == root || (!is_unified() && directory.parent() == Some(root))
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
    fn nobody_is_frozen_in_a_cgroup_that_is_gone() {
        let gone = Cgroup::V2("/nowhere/x.scope".into());
        gone.freeze(false).unwrap();
        assert!(gone.freeze(true).unwrap_err().to_string().contains("/nowhere/x.scope"));
    }

    /// A process that a test ends.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn start() -> Sleeper {
            Sleeper(std::process::Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }

        fn lives(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            // The test may have ended it and waited for it.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_signal_reaches_every_process_of_a_cgroup_but_the_spared_one() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut spared, mut below) =
            (Sleeper::start(), Sleeper::start(), Sleeper::start());
        let list = |directory: &Path, pids: &[i32]| {
            let lines: Vec<String> = pids.iter().map(i32::to_string).collect();
            fs::write(directory.join("cgroup.procs"), lines.join("\n")).unwrap();
        };
        // The numbers of groups of processes, and of the init process, are in no list of the
        // kernel's.
        list(directory.path(), &[one.pid(), spared.pid(), 0, -1, 1]);
        fs::create_dir(directory.path().join("below")).unwrap();
        list(&directory.path().join("below"), &[below.pid()]);
        let group = Cgroup::V2(directory.path().to_owned());
        group.signal(9, Some(spared.pid()));
        assert_eq!(one.0.wait().unwrap().code(), None);
        assert_eq!(below.0.wait().unwrap().code(), None);
        assert!(spared.lives());
        // A cgroup that has this process in it is not a container's.
        let own = i32::try_from(std::process::id()).unwrap();
        list(directory.path(), &[spared.pid(), own]);
        group.signal(9, None);
        assert!(spared.lives());
    }

    #[test]
    fn the_root_of_a_hierarchy_is_not_a_containers_cgroup() {
        assert!(is_root(Path::new("/sys/fs/cgroup")));
        assert_eq!(is_root(Path::new("/sys/fs/cgroup/memory/")), !is_unified());
        assert!(!is_root(Path::new("/sys/fs/cgroup/memory/x")));
    }

    #[test]
    fn this_process_is_in_its_own_cgroup() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(Cgroup::of(pid).unwrap().pids().contains(&pid));
    }
}
