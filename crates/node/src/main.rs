//! The executable `wherry-node`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wherry_node::main()
}
