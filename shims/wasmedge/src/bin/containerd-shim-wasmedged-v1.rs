//! The runtime `io.containerd.wasmedged.v1`: one daemon for all containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_manager::main("wasmedge")
}
