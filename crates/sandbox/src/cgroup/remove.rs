//! Removing a container's cgroup, with all that is in it, from what its configuration says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::place::{Scope, below_root, directories};
use super::{is_unified, signal_all};

/// How long a killed process may take to go, and systemd to see that it has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills every process in the cgroup that a configuration calls `path`, and removes it, and the
/// scope that systemd may have made of it. What is not there is removed already.
///
/// # Errors
/// A sentence, when a process does not go away.
pub fn remove(path: &Path) -> Result<(), String> {
    // A name that is none: the root is nobody's to remove.
    if below_root(path).as_os_str().is_empty() {
        return Ok(());
    }
    // Which of the two it is depends on options that the disk does not tell.
    remove_all(&directories(path, false))?;
    if is_unified()
        && let Some(scope) = Scope::parse(path)
    {
        remove_all(&directories(path, true))?;
        forget(&scope);
    }
    Ok(())
}

/// Removes the directories of one cgroup. A process that is in one of them is mostly in all.
fn remove_all(directories: &[PathBuf]) -> Result<(), String> {
    for directory in directories {
        // A frozen process does not die of a signal on version 1.
        let _ = fs::write(directory.join("freezer.state"), "THAWED");
    }
    for directory in directories {
        let removed = retry(|| match remove_tree(directory) {
            // systemd, too, removes the cgroups that it has made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                // A process that forks meanwhile leaves a child: it takes some attempts.
                signal_all(directory, libc::SIGKILL.unsigned_abs(), None);
                Err(error)
            }
            Ok(()) => Ok(()),
        });
        removed
            .map_err(|error| format!("cannot remove cgroup {}: {error}", directory.display()))?;
    }
    Ok(())
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
