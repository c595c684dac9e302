//! The executable `wherry-<engine>-host`: what runs guests.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use wherry_engine::{Engine, LoadError};

const USAGE: &str = "\
The engine host of a wherry shim, which starts it. The commands for people are those of wherry-ENGINE.
";

/// The executable `wherry-<engine>-host`, given its engine or why there is none.
#[must_use]
pub fn host<E: Engine + 'static>(engine: Result<E, LoadError>) -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("host") => {
            let engine = engine.map(|engine| Rc::new(engine) as Rc<dyn Engine>);
            wherry_host::serve(engine, args.next().as_deref())
        }
        Some(wherry_host::HOOKS) => wherry_host::hooks(args),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}
