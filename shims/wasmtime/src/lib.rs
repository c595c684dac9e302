//! Wasmtime behind Wherry's seam: core modules of WASI preview 1 and components of preview 2.
//!
//! Compiled code is mapped from its file, so that all guests of one image share its pages. Linear
//! memory is allocated when the guest touches it. The guest runs on the thread that calls
//! [`Program::run`]; only name resolution starts another.

#![cfg(feature = "engine")]

#[cfg(feature = "compiler")]
mod compiler;
mod component;
mod context;
mod errno;
mod key;
mod module;
mod preview1;
mod settings;
mod stdio;
mod trap;

use std::fs::File;
use std::io::Read;
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
        match self.code(code)? {
            Mapped::Module(code) => module::load(&self.modules, &code, guest),
            Mapped::Component(code) => component::load(&code, guest),
        }
    }
}

/// Loaded code.
enum Mapped {
    Module(Module),
    Component(Component),
}

impl Wasmtime {
    fn code(&self, code: Code) -> Result<Mapped, LoadError> {
        match code {
            Code::Compiled(file) => self.map(file).map_err(failed),
            // The caller compiles for an engine with a key.
            Code::Wasm(_) => Err(LoadError::Engine("Wasmtime loads compiled code only".to_owned())),
        }
    }

    /// Maps the output of [`Engine::compile`].
    ///
    /// The file is native code that Wherry's compiler wrote, in sealed memory or in a file of the
    /// cache opened through a read-only mount; it never comes from an image. No process in the
    /// container can open it for writing.
    #[allow(unsafe_code)]
    fn map(&self, mut file: File) -> wasmtime::Result<Mapped> {
        if compiled_kind(&file)? == Kind::Module {
            // SAFETY: the file is the unchanged output of `compile` under an equal key: the cache
            // checked its digest, the directory is root's, and the descriptor is of a read-only
            // mount of the host's mount namespace or of sealed memory, so that no process of a
            // container can open it for writing.
            return unsafe { Module::deserialize_open_file(&self.engine, file) }
                .map(Mapped::Module);
        }
        // Wasmtime maps a component by its path only. Without /proc, or without the permission to
        // open the file again, it is copied to private memory.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: as above; the path names the open file.
        let mapped = unsafe { Component::deserialize_file(&self.engine, path) };
        if let Ok(component) = mapped {
            return Ok(Mapped::Component(component));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // SAFETY: as above.
        unsafe { Component::deserialize(&self.engine, bytes) }.map(Mapped::Component)
    }
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
