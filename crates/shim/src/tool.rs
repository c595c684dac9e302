//! The executable `wherry-<engine>`: the compiler, and the commands for people.

use std::io::{self, Write};
use std::process::ExitCode;

use wherry_engine::{Engine, LoadError};
use wherry_protocol::compile::BACKGROUND;
use wherry_protocol::compile::DESCRIPTORS;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{is_help, is_version, print, version};
use crate::{cache, compile};

const USAGE: &str = "\
usage: wherry-ENGINE run [--env K=V]... [--dir HOST[::GUEST]]... [--cwd DIR] [--net] [--plugins PATH] FILE[#function] [ARG]...
       wherry-ENGINE compile [--address CONTAINERD] [--namespace NAME] [--platform OS/ARCHITECTURE] IMAGE-OR-FILE
       wherry-ENGINE cache ls | prune [--older-than NUMBER(s|m|h|d)]
       wherry-ENGINE version
";

/// The main function of `wherry-<engine>`, with its engine or why that cannot be loaded.
#[must_use]
pub fn tool<E: Engine>(engine: std::result::Result<E, LoadError>) -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    // Answered even if the engine cannot be loaded.
    if is_help(&command)
        || (words.first().is_some_and(|word| is_help(word)) && is_command(&command))
    {
        return print(&format!("{}\n{USAGE}", version("", &engine)));
    }
    if is_version(&command) && words.is_empty() {
        return print(&version("", &engine));
    }
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            complain("wherry", &Error::Engine(error).to_string());
            return ExitCode::FAILURE;
        }
    };
    match (command.as_str(), args.split_first()) {
        ("compile", Some((first, rest))) if first == DESCRIPTORS => {
            wherry_compiler::compile(&engine, rest)
        }
        ("compile", Some((first, _))) if first == BACKGROUND => {
            run(engine.name(), |config| compile::in_background(&engine, config))
        }
        ("compile", _) => run(engine.name(), |config| compile::run(&engine, config, &words)),
        ("cache", _) => {
            run(engine.name(), |config| cache::run(&config.cache(engine.name()), &words))
        }
        ("run", _) => wherry_cli::run(&engine, args),
        _ => {
            // There is nowhere else to report that standard error is closed.
            let _ = io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}

fn is_command(word: &str) -> bool {
    ["run", "compile", "cache"].contains(&word)
}

/// Runs a command and prints its output, or its error.
fn run(engine: &str, command: impl FnOnce(&Config) -> Result<String>) -> ExitCode {
    let config = Config::read();
    let program = format!("wherry-{engine}");
    for warning in &config.warnings {
        complain(&program, warning);
    }
    match command(&config) {
        Ok(text) => print(&text),
        Err(error) => {
            complain(&program, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(program: &str, text: &str) {
    // There is nowhere else to report that standard error is closed.
    let _ = io::stderr().write_all(format!("{program}: {text}\n").as_bytes());
}
