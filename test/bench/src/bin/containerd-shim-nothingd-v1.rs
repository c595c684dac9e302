//! The shim that does nothing, with one daemon for all containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_bench::nothing::main(true)
}
