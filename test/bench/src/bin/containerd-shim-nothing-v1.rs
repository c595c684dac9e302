//! The shim that does nothing, with a daemon for each container.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_bench::nothing::main(false)
}
