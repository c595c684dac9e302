//! The executable `wherry-layer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_layer::main()
}
