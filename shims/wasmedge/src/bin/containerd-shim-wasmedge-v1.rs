//! The runtime `io.containerd.wasmedge.v1`.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wasmedge", Sharing::Group)
}
