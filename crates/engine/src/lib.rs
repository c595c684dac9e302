//! The seam between Wherry and a WebAssembly engine.
//!
//! An engine is one implementation of [`Engine`]. It is asked three things: what its compiled code
//! depends on, to compile, and to load a guest that it then runs to its end. Everything the guest
//! may see arrives in [`Guest`]; an engine gives a guest nothing else. All of it is synchronous:
//! the guest is its process's only business, and an engine that wants an async runtime makes its
//! own inside [`Program::run`].
//!
//! Errors are found as early as the life of a container allows: what is wrong with the module in
//! [`Engine::compile`], what it asks for and cannot have in [`Engine::load`]. Both happen before
//! the container's Create returns, so that the person who typed the command reads them. Only what
//! the guest itself does wrong is left to [`Program::run`].

#[cfg(feature = "conformance")]
pub mod conformance;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A WebAssembly engine.
///
/// Called from processes of a single thread. `compile` is called in a process of its own that has
/// no privileges; `load` and `run` in the guest's process, inside the container.
pub trait Engine {
    /// The engine's name as in `io.containerd.<name>.v1`: lower-case letters and digits.
    fn name(&self) -> &'static str;

    /// The version of the engine that this process runs, for a person who compares it with the engine's advisories.
    fn version(&self) -> Version;

    /// What compiled code depends on besides the wasm itself. `None`: this engine has no
    /// ahead-of-time compilation, `compile` is never called and `load` gets [`Code::Wasm`].
    fn compile_key(&self) -> Option<CompileKey>;

    /// Compiles a module or component in the binary format to native code. Only `wherry-<name>` is asked to: the engine
    /// host can do without a compiler.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] with the offset where the fault lies; [`CompileError::Io`] if
    /// `out` fails.
    fn compile(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        let _ = (wasm, out);
        Err(CompileError::Unsupported(format!("there is no compiler of {} here", self.name())))
    }

    /// What code depends on that is made in much less time than by `compile`, and runs more slowly: a module's first start
    /// takes it, and the better code is made behind. `None`: this engine compiles fast enough, and
    /// `compile_quickly` is never called.
    fn quick_key(&self) -> Option<CompileKey> {
        None
    }

    /// Compiles as [`Engine::compile`] does, to code under [`Engine::quick_key`]. `load` takes either.
    ///
    /// # Errors
    /// As for [`Engine::compile`].
    fn compile_quickly(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        self.compile(wasm, out)
    }

    /// Loads the engine's own plug-ins from a file, or from all files in a directory: native code that the
    /// machine's administrator vouches for. The next guest that is loaded may import from them. Called, if at all, once,
    /// before the process forks, and must leave it with a single thread.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if there is none, or if the engine has no such thing.
    fn load_plugins(&self, path: &Path) -> Result<(), LoadError> {
        let _ = path;
        Err(LoadError::Engine(format!("{} has no plug-ins", self.name())))
    }

    /// The system calls that this engine makes while a guest runs, besides those of every engine: by their numbers on this
    /// architecture. A guest's process can make no other; memory that is not executable when `load` returns never becomes so.
    fn system_calls(&self) -> &'static [i64] {
        &[]
    }

    /// Makes the guest ready to run: maps its code, finds its imports and its entry function.
    /// Runs nothing of the guest.
    ///
    /// # Errors
    /// A [`LoadError`] that names what the guest lacks.
    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError>;
}

/// A version of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The engine's name as its project writes it.
    pub engine: &'static str,
    /// The version: that of the library, asked at run time where the library answers.
    pub number: String,
    /// When its project released this version, as `2026-01-31`. `None`: a version that this build does not know.
    pub released: Option<&'static str>,
    /// The project that publishes the engine's advisories.
    pub advisories: &'static str,
}

impl Version {
    /// Finds the date of `number` in a list of versions with the days of their releases.
    #[must_use]
    pub fn released(number: &str, list: &[(&str, &'static str)]) -> Option<&'static str> {
        list.iter().find(|(version, _)| *version == number).map(|(_, day)| *day)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let released = self.released.unwrap_or("a day that this build does not know");
        write!(f, "{} {} of {released}", self.engine, self.number)
    }
}

/// A guest that is ready to run.
pub trait Program {
    /// Runs the guest to its end on this thread.
    ///
    /// # Errors
    /// A [`Trap`]. The guest's own exit code, zero or not, is `Ok`.
    fn run(self: Box<Self>) -> Result<ExitCode, Trap>;
}

/// What compiled code depends on: engine version, settings, CPU features. Two engines with equal
/// keys can run each other's code. Letters, digits, `.`, `-`, `_` and `+` only, at most 100 bytes:
/// it becomes part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompileKey(pub String);

/// The code of a guest.
#[derive(Debug)]
pub enum Code {
    /// A module or component as the image has it: in the binary format, or as text.
    Wasm(Vec<u8>),
    /// What this engine's `compile` wrote, under an equal key. Open for reading at offset 0.
    Compiled(File),
}

/// A guest: all that it may see of the world. Its standard streams are this process's
/// descriptors 0, 1 and 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// The exported function to call, without arguments. `None`: `_start` of a module,
    /// `wasi:cli/run` of a component.
    pub function: Option<String>,
    /// The arguments, the program's name first.
    pub args: Vec<String>,
    /// The environment, in the order of the container's configuration.
    pub env: Vec<(String, String)>,
    /// The working directory: an absolute path as the guest sees it.
    pub cwd: PathBuf,
    /// The directories that the guest may open.
    pub preopens: Vec<Preopen>,
    /// What of the network the guest may use.
    pub network: Network,
}

/// A directory that a guest may open, and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preopen {
    /// Where it lies for this process.
    pub host: PathBuf,
    /// The name under which the guest knows it.
    pub guest: String,
}

/// What of the network a guest may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    #[default]
    None,
    /// Whatever the process's network namespace has: TCP, UDP and name look-up.
    Namespace,
}

/// What a process that ends in this way reports: the low eight bits of what the guest gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub u8);

/// Why a module or component could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is not valid; the text says where.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// The engine cannot do this kind of guest; the text says which it can.
    #[error("{0}")]
    Unsupported(String),
    /// The output could not be written.
    #[error("cannot write compiled code: {0}")]
    Io(#[from] io::Error),
}

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The module is not valid (an engine without `compile`).
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// It imports what there is none of.
    #[error("missing import {0}: this runtime provides WASI only")]
    MissingImport(String),
    /// It lacks the function asked for.
    #[error("no function {function:?} to call; it exports {}", list(.exports))]
    MissingFunction {
        /// The function asked for.
        function: String,
        /// The functions that there are.
        exports: Vec<String>,
    },
    /// A component with no `wasi:cli/run`, or a module without `_start`, and no function was
    /// asked for.
    #[error("nothing to run: it has no {entry}; it exports {}", list(.exports))]
    NoEntry {
        /// What was looked for.
        entry: String,
        /// What there is.
        exports: Vec<String>,
    },
    /// A preopened directory or another part of the guest's world cannot be had.
    #[error("{what}: {source}")]
    World {
        /// What could not be had, with its path.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The engine itself failed.
    #[error("{0}")]
    Engine(String),
}

/// The guest did what it must not: the message and, below it, the wasm backtrace.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trap(pub String);

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_the_day_of_its_release_or_that_it_is_unknown() {
        const LIST: &[(&str, &str)] = &[("1.2.3", "2026-01-31")];
        let version = |number: &str| Version {
            engine: "Engine",
            number: number.to_owned(),
            released: Version::released(number, LIST),
            advisories: "engine/engine",
        };
        assert_eq!(version("1.2.3").to_string(), "Engine 1.2.3 of 2026-01-31");
        let unknown = "Engine 1.2.4 of a day that this build does not know";
        assert_eq!(version("1.2.4").to_string(), unknown);
    }
}
