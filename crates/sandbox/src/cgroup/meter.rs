//! What a container has used, also when its cgroup is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Cgroup;
use super::usage::Usage;

/// Reads what a container has used, and keeps it: systemd removes a cgroup as soon as it is empty,
/// and who asks after the end wants to know what there was.
#[derive(Debug, Clone)]
pub struct Meter {
    cgroup: Cgroup,
    stays: bool,
    last: Arc<Mutex<Usage>>,
}

impl Meter {
    /// The meter of this cgroup. Its clones are the same one. `stays`: nobody removes the cgroup before
    /// [`crate::cleanup`]; otherwise it is to be read once while it is certain to be there.
    #[must_use]
    pub fn new(cgroup: Cgroup, stays: bool) -> Meter {
        let nothing = match cgroup {
            Cgroup::V1(_) => Usage::V1(Box::default()),
            Cgroup::V2(_) => Usage::V2(Box::default()),
        };
        Meter { cgroup, stays, last: Arc::new(Mutex::new(nothing)) }
    }

    /// The cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Whether the cgroup stays when nobody is in it.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// How many processes the kernel has killed for want of memory so far.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills().unwrap_or_else(|| self.last().oom_kills())
    }

    fn last(&self) -> MutexGuard<'_, Usage> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been used so far; when the cgroup is gone, what it was the last time that somebody
    /// asked.
    #[must_use]
    pub fn read(&self) -> Usage {
        let mut last = self.last();
        let now = self.cgroup.usage();
        // Afterwards: it may go while it is being read.
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
        directory.close().unwrap();
        assert_eq!(meter.read().oom_kills(), 1);
        assert_eq!(meter.oom_kills(), 1);
    }
}
