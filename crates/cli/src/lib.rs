//! The executable `wherry-E`: commands for people, and the compiler that the daemon starts.

mod args;
mod cache;
mod compile;
mod error;
mod images;
mod run;
mod version;
#[cfg(feature = "watch")]
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use wherry_engine::{Engine, LoadError};
use wherry_protocol::compile::{BACKGROUND, DESCRIPTORS};
use wherry_supervisor::settings::Settings;

use args::{Args, Command};
use error::{Error, Result};

/// The main function of `wherry-E`, with its engine or the error of loading it.
#[must_use]
pub fn main<E: Engine>(engine: std::result::Result<E, LoadError>) -> ExitCode {
    let program = format!("wherry-{}", engine.as_ref().map_or("ENGINE", |engine| engine.name()));
    let words: Vec<String> = std::env::args().collect();
    let result = match words.get(1..).unwrap_or_default() {
        // The daemon calls these two, see `wherry_protocol::compile`.
        [command, option, rest @ ..] if command == "compile" && option == DESCRIPTORS => {
            engine.map_err(Error::from).map(|engine| wherry_compiler::compile(&engine, rest))
        }
        [command, option] if command == "compile" && option == BACKGROUND => engine
            .map_err(Error::from)
            .and_then(|engine| compile::in_background(&engine, &settings(&program)))
            .map(|()| ExitCode::SUCCESS),
        _ => {
            let command = args::command(&program, &version::text(engine.as_ref()));
            match args::parse(command.clone(), &words) {
                Ok(args) => run_command(&program, command, engine, args),
                Err(message) => {
                    // There is nowhere else to report that the stream is closed.
                    let _ = message.print();
                    // Help and version are printed to standard output.
                    return ExitCode::from(if message.use_stderr() { 2 } else { 0 });
                }
            }
        }
    };
    result.unwrap_or_else(|error| {
        print_error(&program, &error.to_string());
        ExitCode::from(error.exit_code())
    })
}

fn run_command<E: Engine>(
    program: &str,
    command: clap::Command,
    engine: std::result::Result<E, LoadError>,
    args: Args,
) -> Result<ExitCode> {
    let text = match args.command {
        Command::Run(options) => match run::run(&engine?, options)? {},
        Command::Compile(options) => compile::run(&engine?, &settings(program), &options)?,
        #[cfg(feature = "watch")]
        Command::Watch(options) => match watch::run(&engine?, &settings(program), &options)? {},
        Command::Cache(command) => cache::run(&settings(program).cache(engine?.name()), &command)?,
        Command::Version { json: true } => version::json(engine.as_ref()),
        Command::Version { json: false } => {
            format!("{program} {}", version::text(engine.as_ref()))
        }
        Command::Completions { shell } => wherry_manual::completions(command, shell),
        Command::Man { directory } => wherry_manual::write_pages(command, &directory)
            .map_err(|source| Error::Write { path: directory, source })?,
    };
    io::stdout().write_all(text.as_bytes()).map_err(Error::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the settings, and prints a warning for each one that is ignored.
fn settings(program: &str) -> Settings {
    let settings = Settings::read();
    for warning in &settings.warnings {
        print_error(program, warning);
    }
    settings
}

fn print_error(program: &str, text: &str) {
    // There is nowhere else to report that standard error is closed.
    let _ = io::stderr().write_all(format!("{program}: {text}\n").as_bytes());
}
