//! Wasmtime's compiler, and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_cli::main(wherry_wasmtime::Wasmtime::new())
}
