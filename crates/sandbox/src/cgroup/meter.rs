//! What a container has used, also when its cgroup is gone.

use std::sync::{Arc, Mutex, PoisonError};

use super::Cgroup;
use super::usage::Usage;

/// Reads what a container has used, and keeps it: systemd removes a cgroup as soon as it is empty,
/// and who asks after the end wants to know what there was.
#[derive(Debug, Clone)]
pub struct Meter {
    cgroup: Cgroup,
    last: Arc<Mutex<Usage>>,
}

impl Meter {
    /// The meter of this cgroup. Its clones are the same one. It is to be read once while the cgroup is certain to be
    /// there.
    #[must_use]
    pub fn new(cgroup: Cgroup) -> Meter {
        let nothing = match cgroup {
            Cgroup::V1(_) => Usage::V1(Box::default()),
            Cgroup::V2(_) => Usage::V2(Box::default()),
        };
        Meter { cgroup, last: Arc::new(Mutex::new(nothing)) }
    }

    /// The cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What has been used so far; when the cgroup is gone, what it was the last time that somebody
    /// asked.
    #[must_use]
    pub fn read(&self) -> Usage {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
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
        let meter = Meter::new(Cgroup::V2(directory.path().to_owned()));
        fs::write(directory.path().join("memory.events"), "oom_kill 1\n").unwrap();
        assert_eq!(meter.read().oom_kills(), 1);
        directory.close().unwrap();
        assert_eq!(meter.read().oom_kills(), 1);
    }
}
