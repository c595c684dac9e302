//! The runtime `io.containerd.wherry.v1`: each container has its engine.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::main_for_all_engines()
}
