//! The runtime `io.containerd.wasmedged.v1`: one daemon for all containers.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wasmedge", Sharing::Manager)
}
