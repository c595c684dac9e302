//! The statistics of a container, available even after its cgroup is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Cgroup;
use crate::usage::Usage;

/// Reads the statistics of a container and keeps the last ones: systemd removes a cgroup as soon as
/// it is empty, and clients ask for statistics after the exit.
#[derive(Debug, Clone)]
pub struct Meter {
    cgroup: Cgroup,
    stays: bool,
    last: Arc<Mutex<Usage>>,
}

/// A meter in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedMeter {
    cgroup: Cgroup,
    stays: bool,
    last: Usage,
}

impl Meter {
    /// The meter of a cgroup. Clones share the last statistics. `stays`: the cgroup exists until it
    /// is removed with the container; otherwise systemd removes it with its last process, and the
    /// meter must be read once before that.
    #[must_use]
    pub fn new(cgroup: Cgroup, stays: bool) -> Meter {
        let zero = match cgroup {
            Cgroup::V1(_) => Usage::V1(Box::default()),
            Cgroup::V2(_) => Usage::V2(Box::default()),
        };
        Meter { cgroup, stays, last: Arc::new(Mutex::new(zero)) }
    }

    /// The meter, for the next version of this executable.
    #[must_use]
    pub fn save(&self) -> SavedMeter {
        let last = self.last().clone();
        SavedMeter { cgroup: self.cgroup.clone(), stays: self.stays, last }
    }

    /// The meter of [`Meter::save`].
    #[must_use]
    pub fn restore(SavedMeter { cgroup, stays, last }: SavedMeter) -> Meter {
        Meter { cgroup, stays, last: Arc::new(Mutex::new(last)) }
    }

    /// The cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Whether the cgroup stays when it is empty.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// The number of out-of-memory kills so far.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills().unwrap_or_else(|| self.last().oom_kills())
    }

    fn last(&self) -> MutexGuard<'_, Usage> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistics so far; after the cgroup is gone, the last ones that were read.
    #[must_use]
    pub fn read(&self) -> Usage {
        let mut last = self.last();
        let now = self.cgroup.usage();
        // Checked afterwards: the cgroup may be removed while it is read.
        if self.cgroup.exists() {
            last.clone_from(&now);
        }
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_cgroup_that_is_gone_has_used_what_it_had() {
        let directory = tempfile::tempdir().unwrap();
        let meter = Meter::new(Cgroup::V2(directory.path().to_owned()), false);
        fs::write(directory.path().join("memory.events"), "oom_kill 1\n").unwrap();
        assert_eq!(meter.read().oom_kills(), 1);
        fs::write(directory.path().join("memory.events"), "oom_kill 2\n").unwrap();
        assert_eq!(meter.oom_kills(), 2);
        let meter = Meter::restore(meter.save());
        directory.close().unwrap();
        assert_eq!(meter.read().oom_kills(), 1);
        assert_eq!(meter.oom_kills(), 1);
    }
}
