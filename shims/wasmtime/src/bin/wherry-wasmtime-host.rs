//! The engine host: Wasmtime, in a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wasmtime::Wasmtime::new())
}
