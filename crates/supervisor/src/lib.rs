//! The supervisor: creates, starts, signals and deletes containers, and adds processes to them.
//!
//! All functions are synchronous and need no async runtime: the daemon calls them from separate
//! threads, a command line could call them directly. A request flows through [`create`] or
//! [`exec`], over [`launch`] to the engine host, whose messages [`conversation`] validates and
//! answers, with the help of [`code`] and [`compiler`] for compiled code. [`cleanup`] removes a
//! container. [`pod`] creates the namespaces of a pod.

pub mod cancel;
pub mod cleanup;
pub mod code;
pub mod compiler;
mod conversation;
pub mod create;
pub mod digest;
pub mod engines;
pub mod exec;
pub mod launch;
pub mod pod;
pub mod program;
pub mod settings;

use std::sync::{Mutex, MutexGuard, PoisonError};

use wherry_protocol::compile::Bounds;
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::measure::{self, Measurement};
use wherry_sys::reaper::Reaper;

pub use cancel::Cancel;
pub use engines::{Engine, Engines};
use launch::Host;
pub use program::Program;

/// The state that all containers of one process share.
#[derive(Debug)]
pub struct Supervisor {
    /// The engines that run them.
    pub engines: Engines,
    /// The limits of a compilation.
    pub bounds: Bounds,
    /// Reaps the children of this process.
    pub reaper: Reaper,
}

/// Engine hosts that were started ahead of time: each loads its engine while clients still prepare
/// their containers. None of them has seen anything of a container.
#[derive(Debug, Default)]
pub struct SpareHosts {
    hosts: Mutex<Vec<Host>>,
    /// The number to which [`Supervisor::refill`] fills them up.
    kept: usize,
}

impl SpareHosts {
    /// Keeps up to `kept` hosts.
    pub fn keep(&mut self, kept: usize) {
        self.kept = kept;
    }

    /// Adds a host.
    pub fn put(&self, host: Host) {
        self.lock().push(host);
    }

    /// The number of hosts that are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.lock().len()
    }

    fn take(&self) -> Option<Host> {
        let mut hosts = self.lock();
        // One may have been killed since, when memory was short.
        while let Some(host) = hosts.pop() {
            if host.waits() {
                return Some(host);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    /// A spare host of `engine`, or a new one, for a process of the container `id`: its `first` or
    /// an added one. A host serves one request and ends: an idle one would waste memory.
    fn take_host(&self, engine: &Engine, id: &str, first: bool) -> Result<Host, Failure> {
        let spare = engine.spare.take();
        measure::report(|| Measurement::Host { id, first, spare: spare.is_some() });
        match spare {
            Some(host) => Ok(host),
            None => Host::spawn(&engine.host).map_err(|error| {
                let path = engine.host.path().display();
                Failure::new(FailureKind::System, format!("cannot run {path}: {error}"))
            }),
        }
    }

    /// The spare hosts of the engine that is tried first.
    #[must_use]
    pub fn spare(&self) -> &SpareHosts {
        &self.engines.first.spare
    }

    /// Whether [`Supervisor::refill`] has something to do.
    #[must_use]
    pub fn needs_refill(&self) -> bool {
        self.spare().ready() < self.spare().kept
    }

    /// Starts spare hosts in place of those that were used. Blocks for some milliseconds.
    pub fn refill(&self) {
        self.spawn_up_to(self.spare().kept);
    }

    /// Starts a spare host for the container that is expected next, unless there is one. Blocks for
    /// about a millisecond.
    pub fn prepare_host(&self) {
        self.spawn_up_to(1);
    }

    fn spawn_up_to(&self, count: usize) {
        while self.spare().ready() < count {
            match Host::spawn(&self.engines.first.host) {
                Ok(host) => self.spare().put(host),
                // The next Create tries it again, and reports the cause.
                Err(_) => return,
            }
        }
    }
}
