//! The runtime `io.containerd.wamr.v1`.

use std::process::ExitCode;

use wherry_shim::Sharing;

fn main() -> ExitCode {
    wherry_shim::main("wamr", Sharing::Group)
}
