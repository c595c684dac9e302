//! The engine host of WAMR.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::host(wherry_wamr::Wamr::new())
}
