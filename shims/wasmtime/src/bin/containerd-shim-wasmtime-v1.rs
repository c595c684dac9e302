//! The runtime `io.containerd.wasmtime.v1`.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wasmtime", Sharing::Group)
}
