//! WasmEdge's compiler, and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_cli::main(wherry_wasmedge::WasmEdge::new())
}
