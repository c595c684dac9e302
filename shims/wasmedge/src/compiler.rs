//! From wasm to native code, through WasmEdge's compiler.
//!
//! WasmEdge writes to files only, and beside the one that it is told: so it gets a folder for the time.

use std::fs;
use std::io::Write;
use std::path::Path;

use wasmedge_sdk::config::CompilerConfigOptions;
use wasmedge_sdk::error::{CoreCommonError, CoreError, WasmEdgeError};
use wasmedge_sdk::{
    Compiler, CompilerOptimizationLevel, CompilerOutputFormat, Module, RunMode, WasmEdgeResult,
};
use wasmparser::{Validator, WasmFeatures};
use wherry_engine::CompileError;

use crate::binary;
use crate::settings::{INTERPRETED, builder, config};

/// How much time the compiler may spend to make code fast.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As little as can be.
    Least,
    /// What pays off.
    Best,
}

/// Compiles a module and writes a shared object to `out`.
pub(crate) fn compile(
    wasm: &[u8],
    effort: Effort,
    out: &mut dyn Write,
) -> Result<(), CompileError> {
    let wasm = binary::without_native_code(wasm)?;
    let refused = |error: Box<WasmEdgeError>| {
        let text = || CompileError::Unsupported(format!("WasmEdge cannot run it: {error}"));
        fault(&wasm).unwrap_or_else(text)
    };
    Module::from_bytes(Some(&config(RunMode::Interpreter).map_err(refused)?), &wasm)
        .map_err(refused)?;
    let folder = tempfile::tempdir()?;
    match to_file(&wasm, effort, folder.path()) {
        Ok(()) => out.write_all(&fs::read(folder.path().join(format!("{CODE}.so")))?)?,
        Err(error) if is_without_compiler(&error) => {
            out.write_all(INTERPRETED)?;
            out.write_all(&(wasm.len() as u64).to_le_bytes())?;
            out.write_all(&wasm)?;
        }
        Err(error) => return Err(refused(error)),
    }
    Ok(out.flush()?)
}

/// The name of the file that the compiler writes, without its ending.
const CODE: &str = "code";

fn to_file(wasm: &[u8], effort: Effort, folder: &Path) -> WasmEdgeResult<()> {
    let level = match effort {
        Effort::Least => CompilerOptimizationLevel::O0,
        Effort::Best => CompilerOptimizationLevel::O3,
    };
    let options = CompilerConfigOptions::new()
        .optimization_level(level)
        .out_format(CompilerOutputFormat::Native);
    let config = builder(RunMode::Aot).with_compiler_config(options).build()?;
    Compiler::new(Some(&config))?.compile_from_bytes(wasm, CODE, folder)?;
    Ok(())
}

/// A library may be built without LLVM, as it is for some processors.
fn is_without_compiler(error: &WasmEdgeError) -> bool {
    matches!(error, WasmEdgeError::Core(CoreError::Common(CoreCommonError::AOTDisabled)))
}

/// Says what is wrong with a module that WasmEdge refuses, as it does not say where. `None` if it is valid: then it uses
/// what WasmEdge has not.
fn fault(wasm: &[u8]) -> Option<CompileError> {
    let result = Validator::new_with_features(WasmFeatures::all()).validate_all(wasm);
    result.err().map(|error| binary::invalid(&error))
}
