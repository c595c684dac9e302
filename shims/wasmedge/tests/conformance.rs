//! The conformance suite for WasmEdge.

wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wasmedge"));
