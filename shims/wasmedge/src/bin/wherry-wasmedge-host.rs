//! The engine host: WasmEdge, in a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wasmedge::WasmEdge::new())
}
