//! Wasmtime behind Wherry's seam: core modules of WASI preview 1 and components of preview 2.
//!
//! Compiled code is mapped from its file, so that all guests of one image share its pages; memory
//! is taken as the guest touches it; and the guest runs on the thread that calls
//! [`Program::run`], beside which an ordinary guest needs no other.

mod component;
mod module;
mod stdio;
mod trap;
mod world;

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, Module, WasmBacktraceDetails};
use wherry_engine::{Code, CompileError, CompileKey, Engine, Guest, LoadError, Program};

/// The version that Cargo.toml pins. Part of the compile key.
const VERSION: &str = "48.0.8";

/// How deep a guest's own calls may go, in bytes. Wasmtime's default of half as much is too little
/// for deeply recursive interpreters. Only what is touched is paid for.
const WASM_STACK: usize = 1 << 20;

/// What the header of a binary says it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Component,
}

/// The Wasmtime engine. Made once, before the process forks: a child inherits it ready.
pub struct Wasmtime {
    engine: wasmtime::Engine,
    modules: module::Linker,
    components: component::Linker,
}

impl Wasmtime {
    /// Makes the engine and what all guests import from it.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if Wasmtime does not run on this machine.
    pub fn new() -> Result<Self, LoadError> {
        let engine = wasmtime::Engine::new(&config()).map_err(failed)?;
        let modules = module::linker(&engine).map_err(failed)?;
        let components = component::linker(&engine).map_err(failed)?;
        Ok(Self { engine, modules, components })
    }
}

impl Engine for Wasmtime {
    fn name(&self) -> &'static str {
        "wasmtime"
    }

    fn compile_key(&self) -> Option<CompileKey> {
        let mut hasher = Fnv::default();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        Some(CompileKey(format!("{VERSION}-{:016x}", hasher.finish())))
    }

    fn compile(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        let code = match kind(wasm) {
            Ok(Kind::Module) => self.engine.precompile_module(wasm),
            Ok(Kind::Component) => self.engine.precompile_component(wasm),
            Err(fault) => return Err(CompileError::Invalid(fault)),
        };
        out.write_all(&code.map_err(|error| CompileError::Invalid(trap::invalid(&error)))?)?;
        Ok(out.flush()?)
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        match self.code(code)? {
            Mapped::Module(code) => module::load(&self.modules, &code, guest),
            Mapped::Component(code) => component::load(&self.components, &code, guest),
        }
    }
}

/// Code that is ready to be linked.
enum Mapped {
    Module(Module),
    Component(Component),
}

impl Wasmtime {
    fn code(&self, code: Code) -> Result<Mapped, LoadError> {
        match code {
            Code::Compiled(file) => self.map(file).map_err(failed),
            Code::Wasm(wasm) => {
                let invalid = |error| LoadError::Invalid(trap::invalid(&error));
                match kind(&wasm).map_err(LoadError::Invalid)? {
                    Kind::Module => {
                        Module::new(&self.engine, wasm).map(Mapped::Module).map_err(invalid)
                    }
                    Kind::Component => {
                        Component::new(&self.engine, wasm).map(Mapped::Component).map_err(invalid)
                    }
                }
            }
        }
    }

    /// Maps what [`Engine::compile`] wrote.
    ///
    /// The file is native code and is trusted as such: callers pass files of Wherry's own compile
    /// cache only, which nobody but root can write, and never one that came with an image.
    #[allow(unsafe_code)]
    fn map(&self, mut file: File) -> wasmtime::Result<Mapped> {
        if compiled_kind(&file)? == Kind::Module {
            // SAFETY: by this function's contract, the file is the unchanged output of `compile`
            // under an equal key, and nobody changes it while it is mapped.
            return unsafe { Module::deserialize_open_file(&self.engine, file) }
                .map(Mapped::Module);
        }
        // Wasmtime maps a component by its path only. Where /proc or the permission to open the
        // file anew is missing, a copy in memory does as well, only not shared.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: as above; the path names the very file that is open.
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

fn config() -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(2 * WASM_STACK)
        // The system's unwinder never walks wasm frames here, and registering them takes time at
        // every start.
        .native_unwind_info(false)
        // From the module's own debug information, if it has any. Read only when a guest traps.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

/// Tells a component from a module by the eight bytes of the header.
fn kind(wasm: &[u8]) -> Result<Kind, String> {
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Kind::Module),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => Ok(Kind::Component),
        [0, b'a', b's', b'm', _, _, _, _, ..] => {
            Err("unknown binary version (at offset 0x4)".to_owned())
        }
        _ => Err("it does not begin with \"\\0asm\" (at offset 0x0)".to_owned()),
    }
}

/// The same for compiled code, which is an ELF file whose flags say what it holds. Wasmtime's own
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

/// FNV-1a, 64 bits. The standard library's hasher may change with the compiler, and a changed key
/// throws the cache away.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_a_component_from_a_module() {
        assert!(kind(b"\0asm\x01\0\0\0") == Ok(Kind::Module));
        assert!(kind(b"\0asm\x0d\0\x01\0...") == Ok(Kind::Component));
        assert!(kind(b"\0asm\x02\0\0\0").is_err());
        assert!(kind(b"\0asm\x01\0\0").is_err());
        assert!(kind(b"").is_err());
    }

    #[test]
    fn the_pinned_version_is_the_one_in_the_key() {
        assert!(include_str!("../Cargo.toml").contains(&format!("\"={VERSION}\"")));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hasher = Fnv::default();
        hasher.write(b"foobar");
        assert_eq!(hasher.finish(), 0x8594_4171_f739_67e8);
    }

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
