//! The commands for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_shim::tool(wherry_wamr::Wamr::new())
}
