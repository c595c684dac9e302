//! The engine host of Wasmtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wasmtime::Wasmtime::new())
}
