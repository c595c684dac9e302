//! The conformance suite for Wasmtime.

wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wasmtime"), backtraces, components);
