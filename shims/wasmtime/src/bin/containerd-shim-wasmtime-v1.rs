//! The runtime `io.containerd.wasmtime.v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::main("wasmtime", None)
}
