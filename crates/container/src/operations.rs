//! The operations of an actor on the processes, the cgroup and the files of its container.
//!
//! The actor decides when to call them. One implementation is for a container's first process, one
//! for an added process, and a third one, for tests, needs no container.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use wherry_bundle::Bundle;
use wherry_cgroup::Meter;
use wherry_cgroup::meter::SavedMeter;
use wherry_protocol::Failure;
use wherry_supervisor::cleanup::Remains;
use wherry_supervisor::create::{ContainerConfig, SavedStart, Start};
use wherry_supervisor::exec::ExecConfig;
use wherry_supervisor::{Cancel, Supervisor, cleanup};
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};
use wherry_sys::process::Process;

use crate::create;
use crate::handle::Error;
use crate::stdio::{self, StdioPaths, Streams};

/// A process that exists, and its streams.
pub(crate) struct NewProcess {
    pub(crate) process: Arc<Process>,
    pub(crate) streams: Streams,
}

/// The operations of an actor on its process and container. All methods may block, except
/// `signal_all` and `oom_kills`, which make a few system calls.
pub(crate) trait Operations: Send + Sync + 'static {
    /// Starts the process. Returns it if it did not exist before.
    fn start(&self) -> Result<Option<NewProcess>, Failure>;

    /// Sends a signal to every process of the container except `spared`.
    fn signal_all(&self, signal: u32, spared: Option<i32>);

    /// Freezes or thaws every process of the container.
    fn freeze(&self, frozen: bool) -> Result<(), Error>;

    /// The number of out-of-memory kills so far.
    fn oom_kills(&self) -> u64;

    /// Records the statistics of a cgroup that systemd removes with its last process.
    fn record_usage(&self);

    /// Releases the resources that only a running process needs.
    fn release(&self);

    /// The state of a first process's operations, for the next version of this executable. None for
    /// those that have none.
    fn save(&self, _out: &mut Outgoing) -> Option<SavedInit> {
        None
    }

    /// Removes the container. The result is dropped after Delete was answered: see
    /// [`cleanup::hold`].
    fn remove(&self) -> Option<File>;
}

/// The operations of a container's first process.
pub(crate) struct Init {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) bundle: Bundle,
    pub(crate) remains: Remains,
    pub(crate) start: Start,
    /// None if the process ended before its cgroup could be read.
    pub(crate) meter: Option<Meter>,
    /// The mount namespace, until the exit was published: the last process that releases it waits
    /// until the kernel has unmounted everything in it, and cannot be reaped before.
    pub(crate) mount_namespace: Mutex<Option<File>>,
}

/// [`Init`] in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedInit {
    remains: Remains,
    start: SavedStart,
    meter: Option<SavedMeter>,
    mount_namespace: Option<Descriptor>,
}

impl Init {
    /// The operations of [`Operations::save`].
    pub(crate) fn restore(
        supervisor: Arc<Supervisor>,
        config: Arc<ContainerConfig>,
        saved: SavedInit,
        from: &mut Incoming,
    ) -> Result<Init, ResumeError> {
        let SavedInit { remains, start, meter, mount_namespace } = saved;
        let namespace = mount_namespace.map(|fd| from.take(fd)).transpose()?;
        Ok(Init {
            supervisor,
            bundle: Bundle::new(&config.bundle, &config.id),
            config,
            remains,
            start: Start::restore(start, from)?,
            meter: meter.map(Meter::restore),
            mount_namespace: Mutex::new(namespace.map(File::from)),
        })
    }

    fn mount_namespace(&self) -> MutexGuard<'_, Option<File>> {
        self.mount_namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operations for Init {
    fn start(&self) -> Result<Option<NewProcess>, Failure> {
        self.supervisor.start(&self.start).map(|()| None)
    }

    fn signal_all(&self, signal: u32, spared: Option<i32>) {
        if let Some(meter) = &self.meter {
            meter.cgroup().signal(signal, spared);
        }
    }

    fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let meter = self.meter.as_ref().ok_or(Error::Gone)?;
        Ok(meter.cgroup().freeze(frozen)?)
    }

    fn oom_kills(&self) -> u64 {
        self.meter.as_ref().map_or(0, Meter::oom_kills)
    }

    fn record_usage(&self) {
        if let Some(meter) = self.meter.as_ref().filter(|meter| !meter.stays()) {
            // The meter keeps the result.
            drop(meter.read());
        }
    }

    fn release(&self) {
        let namespace = self.mount_namespace().take();
        drop(namespace);
    }

    fn save(&self, out: &mut Outgoing) -> Option<SavedInit> {
        Some(SavedInit {
            remains: self.remains.clone(),
            start: self.start.save(out),
            meter: self.meter.as_ref().map(Meter::save),
            mount_namespace: self.mount_namespace().as_ref().map(|namespace| out.add(namespace)),
        })
    }

    fn remove(&self) -> Option<File> {
        let overlay = cleanup::hold(&self.bundle, &self.config.rootfs);
        self.release();
        self.supervisor.remove(&self.config, &self.remains);
        overlay
    }
}

/// The operations of a process that is added to a container.
pub(crate) struct Exec {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) container: Arc<ContainerConfig>,
    /// The container's first process.
    pub(crate) init: Arc<Process>,
    pub(crate) config: ExecConfig,
    pub(crate) stdio: StdioPaths,
    pub(crate) cancel: Cancel,
}

impl Operations for Exec {
    fn start(&self) -> Result<Option<NewProcess>, Failure> {
        let Exec { supervisor, container, init, config, stdio, cancel } = self;
        let opened = stdio::open_unless_terminal(stdio, config.terminal)?;
        let (ends, retained) = opened.unzip();
        let forked = supervisor.exec(container, init, config, ends, cancel);
        create::refill(supervisor);
        let forked = forked?;
        let process = Arc::new(forked.process);
        match Streams::start(retained, forked.console, stdio) {
            Ok(streams) => Ok(Some(NewProcess { process, streams })),
            Err(failure) => {
                // It may have ended already.
                let _ = process.signal(crate::actor::SIGKILL);
                Err(failure)
            }
        }
    }

    fn signal_all(&self, _signal: u32, _spared: Option<i32>) {}

    fn freeze(&self, _frozen: bool) -> Result<(), Error> {
        Err(Error::Gone)
    }

    fn oom_kills(&self) -> u64 {
        0
    }

    fn record_usage(&self) {}

    fn release(&self) {}

    fn remove(&self) -> Option<File> {
        None
    }
}
