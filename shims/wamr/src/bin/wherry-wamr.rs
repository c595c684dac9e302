//! The command line of WAMR.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_cli::main(wherry_wamr::Wamr::new())
}
