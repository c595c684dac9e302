//! Removing a container's cgroup and every process in it, from the path in its configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::path::{Scope, below_root, directories};
use crate::{CgroupError, is_unified, signal_all};

/// How long a killed process may take to end.
const END: Duration = Duration::from_secs(10);

/// How long systemd may take to learn from the kernel that a scope is empty, and to collect it.
const NOTIFICATION: Duration = Duration::from_millis(200);

/// How long systemd may take to execute a command. containerd kills `delete` after five seconds.
const COLLECTION: Duration = Duration::from_millis(1500);

/// Kills every process in the cgroup `path` of a configuration and removes it, also as a systemd
/// scope. A cgroup that does not exist counts as removed.
///
/// # Errors
/// If a process does not end, or the directory cannot be removed.
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    // Never the root of the hierarchy.
    if below_root(path).as_os_str().is_empty() {
        return Ok(());
    }
    // Whether systemd created it depends on options that are not on disk.
    remove_all(&directories(path, false))?;
    if is_unified()
        && let Some(scope) = Scope::parse(path)
    {
        remove_all(&directories(path, true))?;
        collect_scope(&scope);
    }
    Ok(())
}

/// Removes the directories of one cgroup. Usually a process is in all of them.
fn remove_all(directories: &[PathBuf]) -> Result<(), CgroupError> {
    for directory in directories {
        // On version 1 SIGKILL does not end a frozen process before it is thawed. Fails in
        // hierarchies without a freezer.
        let _ = fs::write(directory.join("freezer.state"), "THAWED");
    }
    for directory in directories {
        let removed = retry(END, || match remove_tree(directory) {
            // systemd also removes the cgroups that it has created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                // A process that forks meanwhile leaves a child, so this takes some attempts.
                signal_all(directory, libc::SIGKILL.unsigned_abs(), None);
                Err(error)
            }
            Ok(()) => Ok(()),
        });
        removed.map_err(|source| CgroupError::Remove { path: directory.clone(), source })?;
    }
    Ok(())
}

/// Removes a cgroup and the cgroups below it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Waits until systemd has collected a scope whose processes are gone: before that, no container of
/// the same name can start.
fn collect_scope(scope: &Scope) {
    let collected = || {
        if Scope::exists(&scope.unit) { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
    };
    let systemctl = |verb: &str| {
        let words = ["--quiet", "--no-block", verb, "--", &scope.unit];
        Command::new("systemctl").args(words).spawn()?;
        retry(COLLECTION, collected)
    };
    let result = retry(NOTIFICATION, collected)
        // The kernel notifies systemd of an empty cgroup from a work queue. If the cgroup goes
        // before that, the notification is lost, and systemd keeps the scope as active.
        .or_else(|_| systemctl("stop"))
        // A failed unit, such as one that systemd itself killed, stays until it is reset.
        .or_else(|_| systemctl("reset-failed"));
    if let Err(error) = result {
        log::warn!("systemd does not release the unit {}: {error}", scope.unit);
    }
}

fn retry(deadline: Duration, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt() {
            Err(error) if start.elapsed() > deadline => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
