//! The executable `wherry-<engine>`: the engine, and three ways to use it.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use wherry_engine::{Engine, LoadError};

const USAGE: &str = "\
usage: wherry-ENGINE run [--env K=V]... [--dir HOST[::GUEST]]... [--cwd DIR] [--net] FILE[#function] [ARG]...
       wherry-ENGINE compile < WASM > CODE
       wherry-ENGINE host        (for the shim: serves on descriptor 3)
";

/// The executable `wherry-<engine>`, given its engine or why there is none.
#[must_use]
pub fn host<E: Engine + 'static>(engine: Result<E, LoadError>) -> ExitCode {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            let _ = std::io::stderr()
                .write_all(format!("the engine does not work: {error}\n").as_bytes());
            return ExitCode::FAILURE;
        }
    };
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("host") => {
            let score = args.next();
            wherry_sandbox::host::serve(Rc::new(engine), score.as_deref())
        }
        Some(wherry_sandbox::host::GATE) => wherry_sandbox::host::gate(args),
        Some("compile") => wherry_sandbox::host::compile(&engine),
        Some("run") => wherry_sandbox::host::run(&engine, args.collect()),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}
