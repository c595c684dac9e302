//! Wasmtime's compiler, and the commands for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::tool(wherry_wasmtime::Wasmtime::new())
}
