//! What is common to all versions of cgroups and all who manage them.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use theirs::common::AnyCgroupManager as Theirs;
pub use theirs::common::*;
use theirs::stats::Stats;
use theirs::v1::manager::{Manager as V1Manager, V1ManagerError};

/// How far a process is that was to enter a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Not in it: it is for libcgroups to move it.
    Outside,
    /// In it; the limits are for libcgroups to set.
    Inside,
    /// In it, and the limits are set.
    Complete,
}

/// Moves this process, which has one thread, into the cgroup that a configuration calls by this path.
pub type Enter = dyn Fn(&Path) -> Result<Entry, WrappedIoError>;

thread_local! {
    static ENTER: RefCell<Option<Box<Enter>>> = const { RefCell::new(None) };
}

/// Says how processes that this thread forks enter cgroups which systemd does not manage.
///
/// libcgroups writes the pid to `cgroup.procs`. The kernel lets that wait until no processor can be in the middle of a
/// fork, which it learns from an RCU grace period: some ten milliseconds. And on version 1 libcgroups reads all mounts
/// once for each controller, which takes two.
pub fn enter_by(enter: impl Fn(&Path) -> Result<Entry, WrappedIoError> + 'static) {
    ENTER.with_borrow_mut(|place| *place = Some(Box::new(enter)));
}

/// Who manages a cgroup.
pub struct AnyCgroupManager {
    path: PathBuf,
    /// None on version 1, where it takes long to make: for each use.
    theirs: Option<Theirs>,
    entry: Cell<Entry>,
}

/// Who manages the cgroup that is described.
///
/// # Errors
/// See [`CreateCgroupSetupError`].
pub fn create_cgroup_manager(
    config: CgroupConfig,
) -> Result<AnyCgroupManager, CreateCgroupSetupError> {
    let path = config.cgroup_path.clone();
    let theirs = match get_cgroup_setup() {
        Ok(CgroupSetup::Legacy | CgroupSetup::Hybrid) => None,
        _ => Some(theirs::common::create_cgroup_manager(config)?),
    };
    Ok(AnyCgroupManager { path, theirs, entry: Cell::new(Entry::Outside) })
}

impl AnyCgroupManager {
    /// Whether to go on where the hierarchy cannot be written to.
    #[must_use]
    pub fn with_rootless(mut self, rootless: bool) -> AnyCgroupManager {
        self.theirs = self.theirs.map(|theirs| theirs.with_rootless(rootless));
        self
    }

    fn theirs<T>(
        &self,
        act: impl FnOnce(&Theirs) -> Result<T, AnyManagerError>,
    ) -> Result<T, AnyManagerError> {
        match &self.theirs {
            Some(theirs) => act(theirs),
            None => act(&Theirs::V1(V1Manager::new(&self.path)?)),
        }
    }

    fn enter(&self) -> Result<Entry, WrappedIoError> {
        if let Some(Theirs::Systemd(_)) = self.theirs {
            return Ok(Entry::Outside);
        }
        ENTER.with_borrow(|enter| {
            enter.as_ref().map_or(Ok(Entry::Outside), |enter| enter(&self.path))
        })
    }
}

impl CgroupManager for AnyCgroupManager {
    type Error = AnyManagerError;

    fn add_task(&self, pid: Pid) -> Result<(), AnyManagerError> {
        if pid == Pid::this() {
            self.entry.set(self.enter().map_err(V1ManagerError::WrappedIo)?);
        }
        match self.entry.get() {
            Entry::Outside => self.theirs(|theirs| theirs.add_task(pid)),
            Entry::Inside | Entry::Complete => Ok(()),
        }
    }

    fn apply(&self, options: &ControllerOpt) -> Result<(), AnyManagerError> {
        match self.entry.get() {
            Entry::Complete => Ok(()),
            Entry::Outside | Entry::Inside => self.theirs(|theirs| theirs.apply(options)),
        }
    }

    fn remove(&self) -> Result<(), AnyManagerError> {
        self.theirs(CgroupManager::remove)
    }

    fn freeze(&self, state: FreezerState) -> Result<(), AnyManagerError> {
        self.theirs(|theirs| theirs.freeze(state))
    }

    fn stats(&self) -> Result<Stats, AnyManagerError> {
        self.theirs(CgroupManager::stats)
    }

    fn get_all_pids(&self) -> Result<Vec<Pid>, AnyManagerError> {
        self.theirs(CgroupManager::get_all_pids)
    }
}
