//! Removing a container's cgroup, with all that is in it, from what its configuration says.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libcgroups::common::{
    CgroupConfig, CgroupManager, CgroupSetup, DEFAULT_CGROUP_ROOT, FreezerState,
    create_cgroup_manager, get_cgroup_setup,
};

use super::Cgroup;
use super::place::{Scope, below_root, systemd_root};
use crate::process::signal_each;

/// How long a killed process may take to go, and systemd to see that it has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills every process in the cgroup that a configuration calls `path`, and removes it, and the
/// scope that systemd may have made of it. What is not there is removed already.
///
/// # Errors
/// A sentence, when a process does not go away.
pub fn remove(path: &Path, id: &str) -> Result<(), String> {
    let failed = |path: &Path, error: &dyn std::error::Error| {
        format!("cannot remove cgroup {}: {error}", path.display())
    };
    if !matches!(get_cgroup_setup(), Ok(CgroupSetup::Unified)) {
        return remove_v1(path, id).map_err(|error| failed(path, &*error));
    }
    // Which of the two it is depends on options that the disk does not tell.
    let root = Path::new(DEFAULT_CGROUP_ROOT);
    let literal = root.join(below_root(path));
    if literal != root {
        remove_v2(&literal).map_err(|error| failed(&literal, &error))?;
    }
    if let Some(scope) = Scope::parse(path) {
        let directory = root.join(systemd_root()).join(&scope.path);
        remove_v2(&directory).map_err(|error| failed(&directory, &error))?;
        forget(&scope);
    }
    Ok(())
}

/// On version 1 systemd makes no scopes for us: the path is one whatever its form.
fn remove_v1(path: &Path, id: &str) -> Result<(), Box<dyn std::error::Error>> {
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: path.to_owned(),
        systemd_cgroup: false,
        container_name: id.to_owned(),
    })?;
    // A frozen process does not die; that there is nothing to thaw is no fault.
    let _ = manager.freeze(FreezerState::Thawed);
    // A process that forks while it is being killed leaves a child: go on until none is left.
    for _ in 0..100 {
        match manager.get_all_pids() {
            Ok(pids) if !pids.is_empty() => {
                let pids: Vec<i32> = pids.iter().map(|pid| pid.as_raw()).collect();
                signal_each(&pids, libc::SIGKILL);
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => break,
        }
    }
    Ok(manager.remove()?)
}

fn remove_v2(directory: &Path) -> io::Result<()> {
    let group = Cgroup::V2(directory.to_owned());
    retry(|| {
        // Older kernels have no such file; a newer one ends in one step those that fork, too.
        if fs::write(directory.join("cgroup.kill"), "1").is_err() {
            signal_each(&group.pids(), libc::SIGKILL);
        }
        match remove_tree(directory) {
            // systemd, too, removes the cgroups that it has made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    })
}

/// Removes a cgroup and those below it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Waits until systemd has forgotten a scope whose processes are gone: before that, no container of
/// the same name can be started.
fn forget(scope: &Scope) {
    let known =
        || if Scope::knows(&scope.unit) { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) };
    let forgotten = retry(known).or_else(|_| {
        // One that systemd calls failed, since it was systemd that ended it, stays until somebody
        // has seen it.
        Command::new("systemctl").args(["--quiet", "reset-failed", &scope.unit]).spawn()?;
        retry(known)
    });
    if let Err(error) = forgotten {
        log::warn!("systemd does not forget {}: {error}", scope.unit);
    }
}

fn retry(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt() {
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
