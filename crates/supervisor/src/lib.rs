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
mod spare;

use wherry_protocol::compile::Bounds;
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::measure::{self, Measurement};
use wherry_sys::reaper::Reaper;

pub use cancel::Cancel;
pub use engines::{Engine, Engines};
use launch::Host;
pub use program::Program;
pub use spare::SpareHosts;

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

impl Supervisor {
    /// A spare host of `engine`, or a new one, for a process of the container `id`: its `first` or
    /// an added one. A host serves one request and ends: an idle one would waste memory.
    fn take_host(&self, engine: &Engine, id: &str, first: bool) -> Result<Host, Failure> {
        let spare = engine.spare.take();
        measure::report(|| Measurement::Host { id, first, spare: spare.is_some() });
        match spare {
            Some(host) => Ok(host),
            None => engine.spare.spawn(&engine.host).map_err(|error| {
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
        self.spare().needs_refill()
    }

    /// Starts spare hosts in place of those that were used. Blocks for some milliseconds.
    pub fn refill(&self) {
        self.spare().refill(&self.engines.first.host);
    }

    /// Starts a spare host for the container that is expected next, unless there is one. Blocks for
    /// about a millisecond.
    pub fn prepare_host(&self) {
        self.spare().fill_up_to(1, &self.engines.first.host);
    }
}
