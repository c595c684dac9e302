//! The front doors of a shim. An engine's executables are a call each:
//!
//! ```ignore
//! fn main() -> ExitCode { wherry_shim::shim("wasmtime") }         // containerd-shim-wasmtime-v1
//! fn main() -> ExitCode { wherry_shim::host(Wasmtime::new()) }    // wherry-wasmtime-host
//! fn main() -> ExitCode { wherry_shim::tool(Wasmtime::new()) }    // wherry-wasmtime
//! ```
//!
//! containerd runs the first as [`start`] (make a daemon, or find the one of the pod, and print
//! its address), `delete` (clean up after a dead daemon) and `-info`. The daemon, forked by
//! `start`, is in [`serve`].

mod args;
mod cache;
mod caller;
mod config;
mod delete;
pub mod group;
mod host;
mod images;
mod info;
mod peer;
mod serve;
mod start;
mod tool;
mod warm;

use std::io::Write;
use std::process::ExitCode;

pub use host::host;
pub use tool::tool;
use wherry_supervisor::digest::{DIGEST, digest};

use args::{Action, Args};

/// What a shim needs to know of its engine: the name, as in `io.containerd.<name>.v1`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shim {
    pub(crate) engine: &'static str,
}

impl Shim {
    fn runtime(self) -> String {
        format!("io.containerd.{}.v1", self.engine)
    }
}

/// The executable `containerd-shim-<engine>-v1`.
#[must_use]
pub fn shim(engine: &'static str) -> ExitCode {
    let shim = Shim { engine };
    let mut args = std::env::args().skip(1);
    if args.next().is_some_and(|word| word == DIGEST) {
        return digest(&args.collect::<Vec<_>>());
    }
    let result = Args::parse(std::env::args().skip(1)).and_then(|args| match args.action {
        Action::Start => start::start(shim, &args),
        Action::Delete => delete::delete(shim, &args),
        Action::Info => info::info(shim),
        Action::Version => info::version(shim),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // containerd shows what it reads here as the cause of the failure.
            let _ = std::io::stderr().write_all(format!("{}: {text}\n", shim.runtime()).as_bytes());
            ExitCode::FAILURE
        }
    }
}
