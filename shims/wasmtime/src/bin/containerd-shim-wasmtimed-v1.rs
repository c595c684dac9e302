//! The runtime `io.containerd.wasmtimed.v1`: one daemon for all containers.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wasmtime", Sharing::Manager)
}
