//! The engine host: Wasmtime, in a process of its own.

use std::process::ExitCode;
use std::rc::Rc;

fn main() -> ExitCode {
    wherry_shim::host(Rc::new(wherry_wasmtime::Wasmtime::default()))
}
