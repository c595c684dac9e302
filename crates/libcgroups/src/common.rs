//! The types that both versions of cgroups share, and the manager of a cgroup.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use theirs::common::AnyCgroupManager as Theirs;
pub use theirs::common::*;
use theirs::stats::Stats;
use theirs::v1::manager::{Manager as V1Manager, V1ManagerError};

/// How far a process has joined its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Not at all: libcgroups moves it, and sets the limits.
    Outside,
    /// It is a member: libcgroups sets the limits.
    Inside,
    /// It is a member, and the limits are set.
    Complete,
}

/// Moves this process, which has one thread, into the cgroup of this `cgroupsPath`.
pub type Enter = dyn Fn(&Path) -> Result<Entry, WrappedIoError>;

thread_local! {
    static ENTER: RefCell<Option<Box<Enter>>> = const { RefCell::new(None) };
}

/// Sets the function by which processes that this thread forks join cgroups. systemd's driver does
/// not call it.
///
/// libcgroups writes the pid to `cgroup.procs`, and the kernel blocks the writer for an RCU grace
/// period, some 10 ms, until no processor can be in the middle of a fork. On version 1 libcgroups
/// also parses all mounts once for each controller, which takes 2 ms.
pub fn enter_by(enter: impl Fn(&Path) -> Result<Entry, WrappedIoError> + 'static) {
    ENTER.with_borrow_mut(|place| *place = Some(Box::new(enter)));
}

/// The manager of a cgroup.
pub struct AnyCgroupManager {
    path: PathBuf,
    /// None on version 1, where its construction takes 2 ms: constructed for each use.
    theirs: Option<Theirs>,
    entry: Cell<Entry>,
}

/// Creates the manager of a cgroup.
///
/// # Errors
/// [`CreateCgroupSetupError`] if the machine has no cgroups that libcgroups knows.
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
    /// Sets whether a hierarchy that cannot be written to is an error.
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
