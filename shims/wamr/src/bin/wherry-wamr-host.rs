//! The engine host of WAMR.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_host::main(wherry_wamr::Wamr::new())
}
