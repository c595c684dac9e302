//! WAMR against the suite that every engine passes.

wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wamr"));
