//! Removes native code from a module before WasmEdge loads it.

use std::borrow::Cow;

use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};
use wherry_engine::CompileError;

/// The name of the custom section in which WasmEdge's compiler stores native code.
const NATIVE: &[u8] = b"wasmedge";
/// The replacement name. It has the same length, so that no offset changes.
const IGNORED: &[u8] = b"unlinked";

/// Returns the module with its native code sections renamed: guests execute only code from our own
/// compiler.
///
/// # Errors
/// [`CompileError::Invalid`] with the offset of a damaged section; [`CompileError::Unsupported`]
/// for a component.
pub(crate) fn without_native_code(wasm: &[u8]) -> Result<Cow<'_, [u8]>, CompileError> {
    let mut wasm = Cow::Borrowed(wasm);
    let names = native_sections(&wasm)?;
    for start in names {
        if let Some(name) = wasm.to_mut().get_mut(start..start + NATIVE.len()) {
            name.copy_from_slice(IGNORED);
        }
    }
    Ok(wasm)
}

/// Returns the offsets of the names of sections with native code.
fn native_sections(wasm: &[u8]) -> Result<Vec<usize>, CompileError> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|error| invalid(&error))? {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(CompileError::Unsupported(
                    "it is a component, and WasmEdge runs modules only: the runtime io.containerd.wasmtime.v1 runs \
                     components"
                        .to_owned(),
                ));
            }
            Payload::CustomSection(section) if section.name().as_bytes() == NATIVE => {
                // The name ends where the data begins.
                let data = usize::try_from(section.data_offset()).ok();
                let start = data.and_then(|data| data.checked_sub(NATIVE.len()));
                names.push(start.ok_or_else(|| {
                    CompileError::Invalid("a section's offset is outside of the file".to_owned())
                })?);
            }
            _ => {}
        }
    }
    Ok(names)
}

pub(crate) fn invalid(error: &BinaryReaderError) -> CompileError {
    let text = error.to_string();
    CompileError::Invalid(text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module of custom sections of these names, each with a byte of content.
    fn module(names: &[&str]) -> Vec<u8> {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        for name in names {
            let length = u8::try_from(name.len()).unwrap();
            wasm.extend([0, length + 2, length]);
            wasm.extend(name.as_bytes());
            wasm.push(0xc3);
        }
        wasm
    }

    #[test]
    fn native_code_is_not_to_be_found_and_all_else_stays() {
        let given = module(&["name", "wasmedge", "wasmedge2", "wasmedge"]);
        let expected = module(&["name", "unlinked", "wasmedge2", "unlinked"]);
        assert_eq!(without_native_code(&given).unwrap(), expected);
        let given = module(&["name"]);
        assert!(matches!(without_native_code(&given), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_size_in_more_bytes_than_it_needs_hides_nothing() {
        let mut given = b"\0asm\x01\0\0\0\0\x8e\x80\0\x88\x80\0".to_vec();
        given.extend(b"wasmedge\xc3\xc3\xc3");
        assert!(without_native_code(&given).unwrap().ends_with(b"unlinked\xc3\xc3\xc3"));
    }

    #[test]
    fn a_component_is_told_who_runs_it() {
        let error = without_native_code(b"\0asm\x0d\0\x01\0").unwrap_err().to_string();
        assert!(
            error.contains("component") && error.contains("io.containerd.wasmtime.v1"),
            "{error}"
        );
    }
}
