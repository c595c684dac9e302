//! The compiler and the command line of Wasmtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_cli::main(wherry_wasmtime::Wasmtime::new())
}
