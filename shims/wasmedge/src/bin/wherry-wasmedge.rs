//! WasmEdge's compiler, and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::tool(wherry_wasmedge::WasmEdge::new())
}
