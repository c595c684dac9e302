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
pub mod exec;
pub mod launch;
pub mod pod;
pub mod program;
pub mod settings;

use std::sync::{Mutex, PoisonError};

use wherry_image::Cache;
use wherry_protocol::compile::Bounds;
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::reaper::Reaper;

pub use cancel::Cancel;
use launch::Host;
pub use program::Program;

/// The state that all containers of one process share.
#[derive(Debug)]
pub struct Supervisor {
    /// The engine host's executable.
    pub host: Program,
    /// The compiler's executable.
    pub compiler: Program,
    /// The cache of compiled code.
    pub cache: Cache,
    /// The limits of a compilation.
    pub bounds: Bounds,
    /// Reaps the children of this process.
    pub reaper: Reaper,
    /// Engine hosts that were started ahead of time.
    pub spare: SpareHost,
}

/// An engine host that was started ahead of time: it loads its engine while the client still
/// prepares the container.
#[derive(Debug, Default)]
pub struct SpareHost(Mutex<Option<Host>>);

impl SpareHost {
    /// Keeps a host for the next container.
    #[must_use]
    pub fn new(host: Option<Host>) -> SpareHost {
        SpareHost(Mutex::new(host))
    }

    /// Replaces the spare host.
    pub fn put(&self, host: Host) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
    }

    fn take(&self) -> Option<Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Supervisor {
    /// The spare host, or a new one. A host serves one request and ends: an idle one would waste
    /// memory.
    fn take_host(&self) -> Result<Host, Failure> {
        match self.spare.take() {
            Some(host) => Ok(host),
            None => Host::spawn(&self.host).map_err(|error| {
                let path = self.host.path().display();
                Failure::new(FailureKind::System, format!("cannot run {path}: {error}"))
            }),
        }
    }
}
