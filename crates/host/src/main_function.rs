//! The main function of `wherry-E-host`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use wherry_engine::about::{VERSION, engine_version};
use wherry_engine::{Engine, LoadError};
use wherry_protocol::message::{ENGINE_VERSION, HOST, ZYGOTE};

use crate::{HOOKS, hooks, serve, zygote};

const HELP: &str = "\
A shim starts this program, which runs guests. The commands for people are those of wherry-ENGINE.

  -v   print the version
  -h   print this help
";

/// The main function of `wherry-E-host`, with its engine or the error of loading it.
#[must_use]
pub fn main<E: Engine + 'static>(engine: Result<E, LoadError>) -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    match command.as_deref() {
        Some(role @ (HOST | ZYGOTE)) => {
            let engine = engine.map(|engine| Rc::new(engine) as Rc<dyn Engine>);
            let Ok(channel) = serve::take_channel() else { return ExitCode::FAILURE };
            serve::prepare();
            let score = args.next();
            let host =
                if role == ZYGOTE { zygote::fork_hosts(channel) } else { Some((channel, None)) };
            // None: the end of a zygote.
            host.map_or(ExitCode::SUCCESS, |(channel, namespaces)| {
                serve::serve(&engine, &channel, score.as_deref(), namespaces)
            })
        }
        Some(HOOKS) => hooks(args),
        Some(ENGINE_VERSION) => print(&format!("{}\n", engine_version(engine.as_ref()))),
        Some("-v" | "--version") => print(&version(engine.as_ref())),
        Some("-h" | "--help") => print(&format!("{}\n{HELP}", version(engine.as_ref()))),
        _ => {
            // There is nowhere else to report that standard error is closed.
            let _ = io::stderr().write_all(HELP.as_bytes());
            ExitCode::from(2)
        }
    }
}

fn version<E: Engine>(engine: Result<&E, &LoadError>) -> String {
    let name = engine.map_or("ENGINE", |engine| engine.name());
    format!("wherry-{name}-host {VERSION}, engine {}\n", engine_version(engine))
}

/// Prints an answer. Returns a failure if standard output is closed.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
