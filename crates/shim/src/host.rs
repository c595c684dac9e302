//! The executable `wherry-<engine>`: the engine, and the ways to use it.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use wherry_engine::{Engine, LoadError};
use wherry_sandbox::compiler::BEHIND;
use wherry_sandbox::host::DESCRIPTORS;

use crate::config::Config;
use crate::{cache, warm};

const USAGE: &str = "\
usage: wherry-ENGINE run [--env K=V]... [--dir HOST[::GUEST]]... [--cwd DIR] [--net] FILE[#function] [ARG]...
       wherry-ENGINE compile [--address CONTAINERD] [--namespace NAME] [--platform OS/ARCHITECTURE] IMAGE-OR-FILE
       wherry-ENGINE cache ls | prune [--older-than NUMBER(s|m|h|d)]
       wherry-ENGINE host        (for the shim: serves on descriptor 3)
";

/// The executable `wherry-<engine>`, given its engine or why there is none.
#[must_use]
pub fn host<E: Engine + 'static>(engine: Result<E, LoadError>) -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    if command.as_deref() == Some("host") {
        let engine = engine.map(|engine| Rc::new(engine) as Rc<dyn Engine>);
        return wherry_sandbox::host::serve(engine, args.next().as_deref());
    }
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            let _ = std::io::stderr()
                .write_all(format!("the engine does not work: {error}\n").as_bytes());
            return ExitCode::FAILURE;
        }
    };
    match command.as_deref() {
        Some(wherry_sandbox::host::GATE) => wherry_sandbox::host::gate(args),
        Some(command @ ("compile" | "cache")) => {
            let args: Vec<String> = args.collect();
            let words: Vec<&str> = args.iter().map(String::as_str).collect();
            match (command, args.split_first()) {
                ("compile", Some((first, rest))) if first == DESCRIPTORS => {
                    wherry_sandbox::host::compile(&engine, rest)
                }
                ("compile", Some((first, _))) if first == BEHIND => {
                    told(engine.name(), |config| warm::behind(&engine, config))
                }
                ("compile", _) => told(engine.name(), |config| warm::run(&engine, config, &words)),
                _ => told(engine.name(), |config| cache::run(&config.cache(engine.name()), &words)),
            }
        }
        Some("run") => wherry_sandbox::host::run(&engine, args.collect()),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// Runs a command for a person: prints what it returns, or what is wrong.
fn told(engine: &str, command: impl FnOnce(&Config) -> Result<String, String>) -> ExitCode {
    let config = Config::read();
    let complain = |text: &str| {
        let _ = std::io::stderr().write_all(format!("wherry-{engine}: {text}\n").as_bytes());
    };
    for text in &config.complaints {
        complain(text);
    }
    match command(&config) {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(text) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}
