//! WAMR behind Wherry's seam: core modules of WASI preview 1, with WAMR's own sockets.
//!
//! An interpreter: it translates a module when it loads it, and runs the guest on the thread that calls [`Program::run`].

mod module;
mod world;

use wherry_engine::{Code, CompileKey, Engine, Guest, LoadError, Program, Release};

/// WAMR's version in the binding, the day on which the binding was published, and the binding's version.
const RELEASE: (&str, &str, &str) = ("2.4.3", "2026-07-14", "0.2.0");

/// The WAMR engine. Made once, before the process forks: it starts no thread.
pub struct Wamr(());

impl Wamr {
    /// Readies WAMR.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if there is no memory for it.
    pub fn new() -> Result<Self, LoadError> {
        module::init().then_some(Self(())).ok_or_else(|| LoadError::Engine("no memory".to_owned()))
    }
}

impl Engine for Wamr {
    fn name(&self) -> &'static str {
        "wamr"
    }

    fn release(&self) -> Release {
        let (version, published, _) = RELEASE;
        Release {
            engine: "WAMR",
            version: version.to_owned(),
            published,
            advisories: "https://github.com/bytecodealliance/wasm-micro-runtime/security/advisories",
        }
    }

    fn compile_key(&self) -> Option<CompileKey> {
        None
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        match code {
            Code::Wasm(wasm) => module::load(&wasm, &guest),
            Code::Compiled(_) => Err(LoadError::Engine("WAMR has no compiled code".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_binding_is_the_one_whose_release_is_known() {
        let (.., binding) = RELEASE;
        let pinned = format!("wamrx-sys = {{ version = \"={binding}\"");
        assert!(include_str!("../Cargo.toml").contains(&pinned));
    }
}
