//! WAMR behind Wherry's seam: core modules of WASI preview 1, with WAMR's own sockets.
//!
//! An interpreter: it translates a module when it loads it, and runs the guest on the thread that
//! calls [`Program::run`].

mod context;
mod module;

use wherry_engine::{Code, CompileKey, Engine, Guest, LinkBuffer, LoadError, Program, Version};

/// The days of release of the WAMR versions in the pinned package.
const RELEASED: &[(&str, &str)] = &[("2.4.3", "2025-10-14")];
const ADVISORIES: &str = "bytecodealliance/wasm-micro-runtime";

/// The WAMR engine. Created once before the process forks: it starts no thread.
pub struct Wamr(());

impl Wamr {
    /// Initialises WAMR.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if the memory for it cannot be allocated.
    pub fn new() -> Result<Self, LoadError> {
        module::init().then_some(Self(())).ok_or_else(|| {
            LoadError::Engine("WAMR: initialisation failed: out of memory".to_owned())
        })
    }
}

impl Engine for Wamr {
    fn name(&self) -> &'static str {
        "wamr"
    }

    fn version(&self) -> Version {
        let number = module::version();
        let released = Version::released(&number, RELEASED);
        Version { engine: "WAMR", number, released, advisories: ADVISORIES }
    }

    fn compile_key(&self) -> Option<CompileKey> {
        None
    }

    fn link_buffer(&self) -> Option<LinkBuffer> {
        // readlinkat_dup of its posix.c.
        Some(LinkBuffer::Exact)
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        match code {
            Code::Wasm(wasm) => module::load(&wasm, &guest),
            Code::Compiled(_) => {
                Err(LoadError::Engine("WAMR interprets: it does not load compiled code".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linked_version_has_a_date() -> Result<(), LoadError> {
        let version = Wamr::new()?.version();
        assert!(version.released.is_some(), "look up the date of the release: {version}");
        Ok(())
    }
}
