//! The compiler and the command line of WasmEdge.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_cli::main(wherry_wasmedge::WasmEdge::new())
}
