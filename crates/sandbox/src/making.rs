//! Who cleans up a container waits for those who still make a process of it.
//!
//! A daemon may die in the middle of Create or Exec, or a container may end while a process is on its way into it.
//! The engine host, which is a process of its own, goes on for a moment: it mounts, makes cgroups, forks. What it
//! makes after the clean-up would stay for ever, or be taken from the next container of the same id.
//!
//! So there is a lock in the bundle. It is shared by all who make: it travels with the request to the host, and is
//! inherited by all that the host forks, until the guest runs. However they end, the kernel lets go of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use crate::bundle::Bundle;

/// Held by who makes a process, for as long as it is open anywhere.
#[derive(Debug)]
pub struct Making(pub(crate) File);

impl Making {
    /// Begins to make a process. Blocks while the container is being cleaned up.
    ///
    /// # Errors
    /// When the lock cannot be made in the bundle.
    pub fn begin(bundle: &Bundle) -> io::Result<Making> {
        let path = bundle.making();
        let open = || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock_shared()?;
            Ok(file)
        };
        open().map(Making).map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()))
        })
    }
}

/// Whether nobody makes a process of this container, nor will before the result is dropped.
pub(crate) fn none(bundle: &Bundle) -> Option<Nobody> {
    match File::open(bundle.making()) {
        Ok(file) => file.try_lock().is_ok().then_some(Nobody { _lock: Some(file) }),
        // Nobody ever has.
        Err(_) => Some(Nobody { _lock: None }),
    }
}

/// Removes the lock, which is held, or which nobody has ever taken. Who has waited for it meanwhile finds nothing to
/// make a process in.
pub(crate) fn remove(bundle: &Bundle) {
    if let Err(error) = fs::remove_file(bundle.making())
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", bundle.making().display());
    }
}

/// Nobody makes a process, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Nobody {
    _lock: Option<File>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_up_waits_for_every_maker_and_for_all_that_they_forked() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        assert!(none(&bundle).is_some(), "nobody has ever made one");
        let (one, other) = (Making::begin(&bundle).unwrap(), Making::begin(&bundle).unwrap());
        let inherited = one.0.try_clone().unwrap();
        drop(one);
        assert!(none(&bundle).is_none());
        drop(other);
        assert!(none(&bundle).is_none(), "a child still has the first one's");
        drop(inherited);
        let nobody = none(&bundle).unwrap();
        assert!(File::open(bundle.making()).unwrap().try_lock_shared().is_err());
        drop(nobody);
        assert!(Making::begin(&bundle).is_ok());
    }
}
