//! `containerd-shim-E-v1` and `containerd-shim-Ed-v1`, the executables that containerd calls.
//!
//! It is called as [`start`], which prints the address of the container's daemon and forks it if
//! needed, as `delete`, which cleans up after a dead daemon, and with `-info`. [`serve`] is the
//! daemon that `start` forks. [`manage`] runs a manager for systemd, and [`operator`] is the
//! interface to the rest of what an operator needs.

mod args;
mod bootstrap;
mod caller;
mod delete;
mod error;
mod features;
pub mod group;
mod info;
mod manage;
pub mod operator;
mod peer;
mod serve;
mod start;

use std::io::Write;
use std::process::ExitCode;

pub use error::Error;
use wherry_supervisor::digest::{DIGEST, digest};
use wherry_supervisor::pod::init::{self, POD_INIT};

use args::{Action, Args};
pub use group::Sharing;
use operator::Operator;

/// A runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shim {
    pub(crate) engine: &'static str,
    pub(crate) sharing: Sharing,
    /// Of a manager.
    pub(crate) operator: Option<&'static dyn Operator>,
}

impl Shim {
    /// The name, as in `io.containerd.<name>.v1`.
    fn name(self) -> String {
        self.sharing.runtime(self.engine)
    }

    fn runtime(self) -> String {
        format!("io.containerd.{}.v1", self.name())
    }

    fn executable(self) -> String {
        format!("containerd-shim-{}-v1", self.name())
    }
}

/// The main function of `containerd-shim-<engine>-v1` and, with an operator,
/// `containerd-shim-<engine>d-v1`.
#[must_use]
pub fn main(engine: &'static str, operator: Option<&'static dyn Operator>) -> ExitCode {
    let sharing = if operator.is_some() { Sharing::Manager } else { Sharing::Group };
    let shim = Shim { engine, sharing, operator };
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(DIGEST) => return digest(&args.collect::<Vec<_>>()),
        Some(POD_INIT) => return init::main(&args.collect::<Vec<_>>()),
        _ => {}
    }
    let result = Args::parse(std::env::args().skip(1)).and_then(|args| match args.action {
        Action::Start => start::start(shim, &args),
        Action::Delete => delete::delete(shim, &args),
        Action::Manager => manage::manage(shim, &args),
        Action::Info => info::info(shim),
        Action::Version => info::version(shim),
        Action::Help => info::help(shim),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd returns this text as the cause of the failure. There is nowhere else to
            // report it.
            let _ =
                std::io::stderr().write_all(format!("{}: {error}\n", shim.runtime()).as_bytes());
            ExitCode::FAILURE
        }
    }
}
