//! The setup lock: cleanup waits for every process that still sets up the container.
//!
//! A daemon may die in the middle of Create or Exec, or a container may end while a process is
//! about to join it. The engine host, a separate process, continues for a moment: it mounts,
//! creates cgroups, forks. Objects that it created after the cleanup would be left behind, or
//! cleanup would remove those of the next container with the same id.
//!
//! The lock is a file in the bundle (flock(2)). Setup holds it shared: the descriptor travels with
//! the request to the host, and every process that the host forks inherits it, until the guest
//! runs. The kernel releases it however they end. Cleanup takes it exclusively.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::Bundle;

/// The lock, shared. Held for as long as the descriptor is open in any process.
#[derive(Debug)]
pub struct SetupLock(File);

impl SetupLock {
    /// Takes the lock shared. Blocks while the container is being cleaned up.
    ///
    /// # Errors
    /// If the file cannot be created in the bundle.
    pub fn shared(bundle: &Bundle) -> io::Result<SetupLock> {
        let path = bundle.setup_lock();
        let open = || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock_shared()?;
            Ok(file)
        };
        open().map(SetupLock).map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()))
        })
    }

    /// The descriptor, to be sent to the engine host.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }
}

/// The lock, exclusive: no setup is running, and none starts until this value is dropped.
#[derive(Debug)]
pub struct Exclusive {
    /// None if no setup has ever created the file.
    _lock: Option<File>,
}

/// Tries to take the lock exclusively. Returns None while a setup is running.
#[must_use]
pub fn try_exclusive(bundle: &Bundle) -> Option<Exclusive> {
    match File::open(bundle.setup_lock()) {
        Ok(file) => file.try_lock().is_ok().then_some(Exclusive { _lock: Some(file) }),
        Err(_) => Some(Exclusive { _lock: None }),
    }
}

/// Removes the file of a lock that is held exclusively. A setup that has waited for the lock finds
/// no bundle to work in.
pub fn remove(bundle: &Bundle, _held: &Exclusive) {
    if let Err(error) = fs::remove_file(bundle.setup_lock())
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", bundle.setup_lock().display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_up_waits_for_every_maker_and_for_all_that_they_forked() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        assert!(try_exclusive(&bundle).is_some(), "no setup has taken it");
        let one = SetupLock::shared(&bundle).unwrap();
        let other = SetupLock::shared(&bundle).unwrap();
        let inherited = one.0.try_clone().unwrap();
        drop(one);
        assert!(try_exclusive(&bundle).is_none());
        drop(other);
        assert!(try_exclusive(&bundle).is_none(), "a child still has the first one's");
        drop(inherited);
        let exclusive = try_exclusive(&bundle).unwrap();
        assert!(File::open(bundle.setup_lock()).unwrap().try_lock_shared().is_err());
        drop(exclusive);
        assert!(SetupLock::shared(&bundle).is_ok());
    }
}
