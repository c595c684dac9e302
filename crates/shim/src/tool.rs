//! The executable `wherry-<engine>`: the compiler, and what else a person asks for.

use std::io::Write;
use std::process::ExitCode;

use wherry_engine::{Engine, LoadError};
use wherry_protocol::compile::BACKGROUND;
use wherry_protocol::compile::DESCRIPTORS;

use crate::config::Config;
use crate::{cache, info, warm};

const USAGE: &str = "\
usage: wherry-ENGINE run [--env K=V]... [--dir HOST[::GUEST]]... [--cwd DIR] [--net] [--plugins PATH] FILE[#function] [ARG]...
       wherry-ENGINE compile [--address CONTAINERD] [--namespace NAME] [--platform OS/ARCHITECTURE] IMAGE-OR-FILE
       wherry-ENGINE cache ls | prune [--older-than NUMBER(s|m|h|d)]
       wherry-ENGINE version
";

/// The executable `wherry-<engine>`, given its engine or why there is none.
#[must_use]
pub fn tool<E: Engine>(engine: Result<E, LoadError>) -> ExitCode {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            let _ = std::io::stderr()
                .write_all(format!("the engine does not work: {error}\n").as_bytes());
            return ExitCode::FAILURE;
        }
    };
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match (command.as_deref(), args.split_first()) {
        (Some("compile"), Some((first, rest))) if first == DESCRIPTORS => {
            wherry_compiler::compile(&engine, rest)
        }
        (Some("compile"), Some((first, _))) if first == BACKGROUND => {
            told(engine.name(), |config| warm::behind(&engine, config))
        }
        (Some("compile"), _) => told(engine.name(), |config| warm::run(&engine, config, &words)),
        (Some("cache"), _) => {
            told(engine.name(), |config| cache::run(&config.cache(engine.name()), &words))
        }
        (Some("version"), None) => told(engine.name(), |_| Ok(version(&engine))),
        (Some("run"), _) => wherry_cli::run(&engine, args),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// What this program is, and where to look whether its engine has a known fault.
fn version(engine: &impl Engine) -> String {
    let (name, of) = (engine.name(), engine.version());
    let advisories = of.advisories;
    format!(
        "wherry-{name} {}, engine {of}\n\
         advisories: the security page of the project {advisories}\n",
        info::VERSION
    )
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
