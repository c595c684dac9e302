//! The engine host of WasmEdge.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wasmedge::WasmEdge::new())
}
