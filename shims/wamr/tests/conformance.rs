//! The conformance suite for WAMR.

wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wamr"));
