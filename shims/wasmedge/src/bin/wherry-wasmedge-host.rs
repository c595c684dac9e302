//! The engine host of WasmEdge.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_host::main(wherry_wasmedge::WasmEdge::new())
}
