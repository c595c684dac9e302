//! The runtime `io.containerd.wasmedge.v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::main("wasmedge", None)
}
