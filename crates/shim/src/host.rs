//! The executable `wherry-<engine>-host`, which runs guests.

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use wherry_engine::{Engine, LoadError};

use crate::info;

/// The command with which a shim asks for the engine's version.
pub(crate) const ENGINE_VERSION: &str = "engine-version";

const HELP: &str = "\
A shim starts this program, which runs guests. The commands for people are those of wherry-ENGINE.

  -v   print the version
  -h   print this help
";

/// The main function of `wherry-<engine>-host`, with its engine or why that cannot be loaded.
#[must_use]
pub fn host<E: Engine + 'static>(engine: Result<E, LoadError>) -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    match command.as_deref() {
        Some("host") => {
            let engine = engine.map(|engine| Rc::new(engine) as Rc<dyn Engine>);
            wherry_host::serve(engine, args.next().as_deref())
        }
        Some(wherry_host::HOOKS) => wherry_host::hooks(args),
        Some(ENGINE_VERSION) => print(&format!("{}\n", engine_version(&engine))),
        Some(word) if is_version(word) => print(&version("host", &engine)),
        Some(word) if is_help(word) => print(&format!("{}\n{HELP}", version("host", &engine))),
        _ => {
            // There is nowhere else to report that standard error is closed.
            let _ = io::stderr().write_all(HELP.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// Whether a command asks for the version.
pub(crate) fn is_version(word: &str) -> bool {
    ["version", "--version", "-version", "-v", "-V"].contains(&word)
}

/// Whether a command asks for help.
pub(crate) fn is_help(word: &str) -> bool {
    ["help", "--help", "-help", "-h"].contains(&word)
}

/// The engine's version, or why it cannot be loaded.
fn engine_version<E: Engine>(engine: &Result<E, LoadError>) -> String {
    match engine {
        Ok(engine) => engine.version().to_string(),
        Err(error) => format!("unknown: cannot load the engine: {error}"),
    }
}

/// The versions of an executable and its engine, and where to look for advisories. `role` follows
/// the engine in the executable's name.
pub(crate) fn version<E: Engine>(role: &str, engine: &Result<E, LoadError>) -> String {
    let name = engine.as_ref().map_or("ENGINE", Engine::name);
    let dash = if role.is_empty() { "" } else { "-" };
    let mut text =
        format!("wherry-{name}{dash}{role} {}, engine {}\n", info::VERSION, engine_version(engine));
    if let Ok(engine) = engine {
        let project = engine.version().advisories;
        text.push_str(&format!("advisories: the security page of the project {project}\n"));
    }
    text
}

/// Prints an answer. It failed if standard output is closed.
pub(crate) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
