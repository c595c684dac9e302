//! The engine host of Wasmtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_host::main(wherry_wasmtime::Wasmtime::new())
}
