//! `containerd-shim-E-v1` and `containerd-shim-Ed-v1`, the executables that containerd calls.
//!
//! It is called as [`start`], which prints the address of the container's daemon and forks it if
//! needed, as `delete`, which cleans up after a dead daemon, and with `-info`. [`serve`] is the
//! daemon that `start` forks. [`upgrade`] hands it over to a new version of this executable.
//! [`manage`] runs a manager for systemd, and [`operator`] is the interface to the rest of what an
//! operator needs.

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
mod upgrade;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

pub use error::Error;
use wherry_protocol::Failure;
use wherry_supervisor::Engines;
use wherry_supervisor::digest::{DIGEST, digest};
use wherry_supervisor::pod::init::{self, POD_INIT};
use wherry_supervisor::settings::Settings;
use wherry_sys::handover::Descriptor;

use args::{Action, Args};
pub use group::Sharing;
use operator::Operator;

/// The name of the runtime for all engines.
const ALL: &str = "wherry";
/// The end of the path of a running executable that was replaced.
const REPLACED: &str = " (deleted)";

/// A runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shim {
    /// The name of its engine, or [`ALL`].
    pub(crate) engine: &'static str,
    /// Searches for its engines. The shims of one engine do not contain the code for all.
    pub(crate) find: fn(&str, &Settings) -> Result<Engines, Failure>,
    pub(crate) sharing: Sharing,
    /// Of a manager.
    pub(crate) operator: Option<&'static dyn Operator>,
}

impl Shim {
    /// The name, as in `io.containerd.<name>.v1`.
    fn name(self) -> String {
        self.sharing.runtime(self.engine)
    }

    /// Searches for its engines.
    fn engines(self, settings: &Settings) -> Result<Engines, Failure> {
        (self.find)(self.engine, settings)
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
    run(Shim { engine, find: Engines::find, sharing, operator })
}

/// The main function of `containerd-shim-wherry-v1`, whose containers have the engine that an
/// annotation names, or the first one that runs their module.
#[must_use]
pub fn main_for_all_engines() -> ExitCode {
    let find = |_: &str, settings: &Settings| Engines::find_all(settings);
    run(Shim { engine: ALL, find, sharing: Sharing::Group, operator: None })
}

/// The path at which this executable is installed, also if another version has replaced it since.
///
/// # Errors
/// If procfs is not mounted.
fn own_executable() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().map_err(Error::Own)?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(REPLACED)) {
        Some(installed) => installed.into(),
        None => path,
    })
}

fn run(shim: Shim) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.as_slice() {
        [first, rest @ ..] if first == DIGEST => return digest(rest),
        [first, rest @ ..] if first == POD_INIT => return init::main(rest),
        [only] if only == upgrade::CHECK => upgrade::check(shim),
        // The other arguments are those that the daemon had before.
        [.., last, number] if last == upgrade::HANDOVER && number.parse::<Descriptor>().is_ok() => {
            number.parse().map_or(Ok(()), |number| upgrade::resume(shim, number))
        }
        args => call(shim, args),
    };
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

/// Carries out a call of containerd or of a user.
fn call(shim: Shim, args: &[String]) -> Result<(), Error> {
    let args = Args::parse(args.iter().cloned())?;
    match args.action {
        Action::Start => start::start(shim, &args),
        Action::Delete => delete::delete(shim, &args),
        Action::Manager => manage::manage(shim, &args),
        Action::Info => info::info(shim),
        Action::Version => info::version(shim),
        Action::Help => info::help(shim),
        Action::Upgrade => upgrade::upgrade(shim, &args),
    }
}
