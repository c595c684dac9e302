//! The runtime `io.containerd.wamrd.v1`: one daemon for all containers.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wamr", Sharing::Manager)
}
