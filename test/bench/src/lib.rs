//! The code that the benchmark and its do-nothing shim share.

pub mod wire;
