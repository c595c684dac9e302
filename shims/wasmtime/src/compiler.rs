//! Compiles wasm to native code with Cranelift.

use std::io::Write;

use wherry_engine::check::{self, runtimes};
use wherry_engine::{CompileError, LoadError, Start};

use crate::{Kind, settings, trap};

/// Checks a module or component before it is compiled.
pub(crate) fn check(wasm: &[u8], start: Option<&Start>) -> Result<(), LoadError> {
    check::check(wasm, &runtimes::wasmtime(), start)
}

/// Compiles a module or component that starts without a named function.
pub(crate) fn compile(
    engine: &wasmtime::Engine,
    wasm: &[u8],
    out: &mut dyn Write,
) -> Result<(), CompileError> {
    if check::serves(wasm) { compile_server(wasm, out) } else { compile_for(engine, wasm, out) }
}

/// Compiles a component that starts as a server.
pub(crate) fn compile_server(wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
    let engine = wasmtime::Engine::new(&settings::server())
        .map_err(|error| CompileError::Unsupported(trap::one_line(&error)))?;
    compile_for(&engine, wasm, out)
}

fn compile_for(
    engine: &wasmtime::Engine,
    wasm: &[u8],
    out: &mut dyn Write,
) -> Result<(), CompileError> {
    let code = match kind(wasm) {
        Ok(Kind::Module) => engine.precompile_module(wasm),
        Ok(Kind::Component) => engine.precompile_component(wasm),
        Err(error) => return Err(error),
    };
    out.write_all(&code.map_err(|error| CompileError::Invalid(invalid(&error)))?)?;
    Ok(out.flush()?)
}

/// Returns the kind of a binary from the eight bytes of its header.
fn kind(wasm: &[u8]) -> Result<Kind, CompileError> {
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Kind::Module),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => Ok(Kind::Component),
        [0, b'a', b's', b'm', _, _, _, _, ..] => {
            Err(CompileError::Invalid("unknown binary version (at offset 0x4)".to_owned()))
        }
        _ => Err(CompileError::Invalid(
            "it does not begin with \"\\0asm\" (at offset 0x0)".to_owned(),
        )),
    }
}

/// Formats a fault of a binary in one line, with the offset last. Wasmtime's validator of function
/// bodies puts the offset first.
fn invalid(error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    let fault = cause
        .strip_prefix("Invalid input WebAssembly code at offset ")
        .and_then(|rest| rest.split_once(": "))
        .and_then(|(offset, fault)| Some((offset.parse::<u64>().ok()?, fault)));
    let text = match fault {
        Some((offset, fault)) => format!("{fault} (at offset {offset:#x})"),
        None => cause,
    };
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_a_component_from_a_module() {
        assert!(matches!(kind(b"\0asm\x01\0\0\0"), Ok(Kind::Module)));
        assert!(matches!(kind(b"\0asm\x0d\0\x01\0..."), Ok(Kind::Component)));
        assert!(kind(b"\0asm\x02\0\0\0").is_err());
        assert!(kind(b"\0asm\x01\0\0").is_err());
        assert!(kind(b"").is_err());
    }
}
