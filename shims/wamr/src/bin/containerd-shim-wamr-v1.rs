//! The runtime `io.containerd.wamr.v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::main("wamr", None)
}
