//! The operator's part of a manager, the one daemon of a containerd's namespace in the shared mode:
//! its settings, its metrics, its status, and its life under systemd.
//!
//! [`main`] is the main function of `containerd-shim-Ed-v1`. It answers the operator's commands and
//! passes containerd's calls on to [`wherry_shim`], which calls this crate back through
//! [`wherry_shim::operator`]. The executables of the daemons for single containers do not link it.

mod control;
mod error;
mod metrics;
mod settings;
mod status;
mod unit;

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use wherry_shim::operator::{Manager, Operator, OperatorError, Serving, Settings};

use error::{Error, Result};

/// The version of this project.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The operator's commands, for `-help`.
const USAGE: &str = "\
  check [FILE]      validate the managers' settings, /etc/wherry/manager.toml
  status [--json]   list the managers of this machine
  -namespace NAME -address SOCKET -ttrpc-address SOCKET -socket PATH [-debug] manager
       systemd calls this: runs a manager
";

/// The operator's part of a manager.
#[derive(Debug)]
struct Operated;

/// The main function of `containerd-shim-<engine>d-v1`.
#[must_use]
pub fn main(engine: &'static str) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words = args.iter().map(String::as_str);
    let result = match words.next() {
        Some("check") => check(words.next(), words.next()),
        Some("status") => status(words.next(), words.next()),
        _ => return wherry_shim::main(engine, Some(&Operated)),
    };
    result.unwrap_or_else(|error| {
        // A closed standard error is not worth another one.
        let _ = writeln!(io::stderr(), "{error}");
        ExitCode::FAILURE
    })
}

fn check(path: Option<&str>, more: Option<&str>) -> Result<ExitCode> {
    if let Some(argument) = more {
        return Err(Error::Usage { argument: argument.to_owned(), usage: "check [FILE]" });
    }
    let result = settings::check(path)?;
    writeln!(io::stdout(), "{result}").map_err(Error::Print)?;
    Ok(ExitCode::SUCCESS)
}

fn status(option: Option<&str>, more: Option<&str>) -> Result<ExitCode> {
    let json = match (option, more) {
        (None, _) => false,
        (Some("--json" | "-json"), None) => true,
        (Some("--json" | "-json"), Some(argument)) | (Some(argument), _) => {
            return Err(Error::Usage { argument: argument.to_owned(), usage: "status [--json]" });
        }
    };
    let answered = status::status(json)?;
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Operator for Operated {
    fn settings(&self) -> std::result::Result<Settings, OperatorError> {
        Ok(settings::read()?)
    }

    fn launch(&self, manager: &Manager) -> std::result::Result<(), OperatorError> {
        Ok(unit::launch(manager)?)
    }

    fn serve(&self, serving: Serving) {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                let service = serving.service.clone();
                tokio::spawn(async move {
                    while terminate.recv().await.is_some() {
                        service.end_without_containers();
                    }
                });
            }
            Err(error) => log::error!("SIGTERM ends the manager with its containers: {error}"),
        }
        let manager = serving.manager.clone();
        control::serve(serving);
        // The last step: `start` returns, and the operator may ask for the status.
        unit::ready(&manager);
    }

    fn usage(&self) -> &'static str {
        USAGE
    }
}
