//! The executable `wherry`.

mod args;
mod bars;
mod commands;
mod compile;
mod error;
mod places;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use args::Command;
use bars::Bars;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let args = match args::parse(&words) {
        Ok(args) => args,
        Err(message) => {
            // There is nowhere else to report that the stream is closed.
            let _ = message.print();
            // Help and version are printed to standard output.
            return ExitCode::from(if message.use_stderr() { 2 } else { 0 });
        }
    };
    let bars = Bars::new();
    let result = match args.command {
        Command::Image(command) => commands::run(&command, &bars),
        Command::Completions { shell } => Ok(wherry_manual::completions(args::command(), shell)),
        Command::Man { directory } => wherry_manual::write_pages(args::command(), &directory)
            .map_err(|source| error::Error::Man { path: directory, source }),
    };
    let printed = result
        .and_then(|text| io::stdout().write_all(text.as_bytes()).map_err(error::Error::Print));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to report that standard error is closed.
            let _ = io::stderr().write_all(format!("wherry: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
