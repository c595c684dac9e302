//! Wasmtime behind Wherry's seam: core modules of WASI preview 1 and components of preview 2.
//!
//! Compiled code is mapped from its file, so that all guests of one image share its pages. Linear
//! memory is allocated when the guest touches it. The guest runs on the thread that calls
//! [`Program::run`]; only name resolution starts another, and a server has one that measures time.

#![cfg(feature = "engine")]

#[cfg(feature = "compiler")]
mod compiler;
mod component;
mod context;
mod errno;
mod key;
mod module;
mod outgoing;
mod preview1;
mod server;
mod settings;
mod stdio;
mod trap;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use wasmtime::Module;
use wasmtime::component::Component;
use wherry_engine::{Code, CompileKey, Engine, Guest, LoadError, Program, Version};

/// The kind of a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Component,
}

/// The Wasmtime engine. Created once before the process forks: a child inherits it.
pub struct Wasmtime {
    engine: wasmtime::Engine,
    modules: module::Linker,
}

impl Wasmtime {
    /// Creates the engine and the linker of modules. The linker of components has four times as
    /// many functions, and is created when a component is loaded.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if Wasmtime does not run on this machine.
    pub fn new() -> Result<Self, LoadError> {
        let engine = wasmtime::Engine::new(&settings::config()).map_err(failed)?;
        let modules = module::linker(&engine).map_err(failed)?;
        Ok(Self { engine, modules })
    }
}

impl Engine for Wasmtime {
    fn name(&self) -> &'static str {
        "wasmtime"
    }

    fn version(&self) -> Version {
        key::version()
    }

    fn compile_key(&self) -> Option<CompileKey> {
        Some(key::key())
    }

    fn server_key(&self) -> Option<CompileKey> {
        Some(key::server_key())
    }

    #[cfg(feature = "compiler")]
    fn compile_server(
        &self,
        wasm: &[u8],
        out: &mut dyn std::io::Write,
    ) -> Result<(), wherry_engine::CompileError> {
        compiler::compile_server(wasm, out)
    }

    #[cfg(feature = "compiler")]
    fn check(&self, wasm: &[u8], start: Option<&wherry_engine::Start>) -> Result<(), LoadError> {
        compiler::check(wasm, start)
    }

    #[cfg(feature = "compiler")]
    fn compile(
        &self,
        wasm: &[u8],
        out: &mut dyn std::io::Write,
    ) -> Result<(), wherry_engine::CompileError> {
        compiler::compile(&self.engine, wasm, out)
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        let file = match code {
            Code::Compiled(file) => file,
            // The caller compiles for an engine with a key.
            Code::Wasm(_) => {
                return Err(LoadError::Engine("Wasmtime loads compiled code only".to_owned()));
            }
        };
        if compiled_kind(&file).map_err(failed)? == Kind::Module {
            let module = map_module(&self.engine, file).map_err(failed)?;
            return module::load(&self.modules, &module, guest);
        }
        match map_component(&self.engine, &file) {
            Ok(component) => component::load(&component, guest),
            Err(error) if server::is_code_of_server(&error) => server::load(&file, guest),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Maps a module that [`Engine::compile`] has compiled.
///
/// The file is native code that Wherry's compiler wrote, in sealed memory or in a file of the cache
/// opened through a read-only mount; it never comes from an image. No process in the container can
/// open it for writing.
#[allow(unsafe_code)]
fn map_module(engine: &wasmtime::Engine, file: File) -> wasmtime::Result<Module> {
    // SAFETY: the file is the unchanged output of `compile` under an equal key: the cache checked
    // its digest, the directory is root's, and the descriptor is of a read-only mount of the host's
    // mount namespace or of sealed memory, so that no process of a container can open it for
    // writing.
    unsafe { Module::deserialize_open_file(engine, file) }
}

/// Maps a component, as [`map_module`] does.
#[allow(unsafe_code)]
fn map_component(engine: &wasmtime::Engine, file: &File) -> wasmtime::Result<Component> {
    // Wasmtime maps a component by its path only. Without /proc, or without the permission to open
    // the file again, it is copied to private memory.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: as in `map_module`; the path names the open file.
    let mapped = unsafe { Component::deserialize_file(engine, path) };
    if mapped.as_ref().map_or_else(server::is_code_of_server, |_| true) {
        return mapped;
    }
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    // SAFETY: as in `map_module`.
    unsafe { Component::deserialize(engine, bytes) }
}

/// Returns the kind of compiled code from the flags in its ELF header. Wasmtime's
/// `detect_precompiled` reads the whole file or needs its path.
fn compiled_kind(file: &File) -> wasmtime::Result<Kind> {
    const COMPONENT: u32 = 1 << 1;
    let mut flags = [0; 4];
    file.read_exact_at(&mut flags, 0x30)?;
    Ok(if u32::from_le_bytes(flags) & COMPONENT == 0 { Kind::Module } else { Kind::Component })
}

fn failed(error: wasmtime::Error) -> LoadError {
    LoadError::Engine(trap::one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_engines_have_equal_keys() -> Result<(), LoadError> {
        let key = Wasmtime::new()?.compile_key();
        assert_eq!(key, Wasmtime::new()?.compile_key());
        let text = key.map(|key| key.0).unwrap_or_default();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
        assert!(!text.is_empty() && text.bytes().all(allowed), "{text:?}");
        Ok(())
    }
}
