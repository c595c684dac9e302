//! The shim that does nothing, and the code that it shares with the benchmark.

pub mod nothing;
pub mod wire;
