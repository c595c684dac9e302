//! Compiles wasm to native code with WasmEdge's compiler.
//!
//! WasmEdge writes to files only, including temporary files beside the named one, so a compilation
//! gets a temporary directory.

use std::fs;
use std::io::Write;
use std::path::Path;

use wasmedge_sdk::config::CompilerConfigOptions;
use wasmedge_sdk::error::{CoreCommonError, CoreError, WasmEdgeError};
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sdk::{
    AsInstance, Compiler, CompilerOptimizationLevel, CompilerOutputFormat, Instance, Module,
    RunMode, WasmEdgeResult,
};
use wherry_engine::check::{self, Support, preview1, runtimes};
use wherry_engine::{CompileError, LoadError, Start};

use crate::settings::{INTERPRETED, builder, config};
use crate::{binary, module};

/// The optimisation of the code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Level 0: 86 ms for a module of 61 KB, whose code is 1.6 times slower.
    Baseline,
    /// Level 3: 0.7 s for the same module.
    Optimised,
}

/// Checks a module before it is compiled.
pub(crate) fn check(wasm: &[u8], start: Option<&Start>) -> Result<(), LoadError> {
    // The library defines which functions it provides: its sockets differ between versions.
    let wasi = WasiModule::create(None, None, None).map_err(module::failed)?;
    let wasi: &Instance = wasi.as_ref();
    let support = Support {
        provides: &|module, name| module == preview1::MODULE && wasi.get_func(name).is_ok(),
        ..runtimes::wasmedge()
    };
    check::check(wasm, &support, start)
}

/// Compiles a module and writes a shared object to `out`.
pub(crate) fn compile(
    wasm: &[u8],
    effort: Effort,
    out: &mut dyn Write,
) -> Result<(), CompileError> {
    let wasm = binary::without_native_code(wasm)?;
    let refused = |error: Box<WasmEdgeError>| {
        CompileError::Unsupported(format!("WasmEdge cannot run it: {error}"))
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

/// The name of the file that the compiler writes, without its suffix.
const CODE: &str = "code";

fn to_file(wasm: &[u8], effort: Effort, folder: &Path) -> WasmEdgeResult<()> {
    let level = match effort {
        Effort::Baseline => CompilerOptimizationLevel::O0,
        Effort::Optimised => CompilerOptimizationLevel::O3,
    };
    let options = CompilerConfigOptions::new()
        .optimization_level(level)
        .out_format(CompilerOutputFormat::Native);
    let config = builder(RunMode::Aot).with_compiler_config(options).build()?;
    Compiler::new(Some(&config))?.compile_from_bytes(wasm, CODE, folder)?;
    Ok(())
}

/// Returns true for a library built without LLVM, as for some processors.
fn is_without_compiler(error: &WasmEdgeError) -> bool {
    matches!(error, WasmEdgeError::Core(CoreError::Common(CoreCommonError::AOTDisabled)))
}
