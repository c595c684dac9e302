//! The engine host: WAMR, in a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wamr::Wamr::new())
}
