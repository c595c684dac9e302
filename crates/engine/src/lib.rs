//! The seam between Wherry and a WebAssembly engine.
//!
//! An engine is one implementation of [`Engine`]. It returns a key for its compiled code, compiles,
//! and loads a guest, which it then runs to its end. [`Guest`] holds everything that the guest may
//! use; an engine gives a guest nothing else. All calls are synchronous: a process runs one guest,
//! and an engine that needs an async runtime creates it inside [`Program::run`].
//!
//! Errors are reported as early as the life of a container allows: a fault of the module in
//! [`Engine::compile`], a missing directory or import in [`Engine::load`]. Both run before the
//! container's Create returns, so that the client prints them. [`Program::run`] reports only faults
//! of the running guest.

pub mod about;
#[cfg(feature = "check")]
pub mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod http;
mod preopens;
mod start;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use error::{
    CompileError, Entry, Export, LoadError, StartError, Trap, find_component_entry, find_entry,
    is_handler, is_run, signature,
};
pub use http::{Http, OptionError};
pub use start::Start;

/// A WebAssembly engine.
///
/// All callers are single-threaded processes. `compile` runs in a separate unprivileged process,
/// `load` and `run` in the guest's process, inside the container.
pub trait Engine {
    /// The engine's name as in `io.containerd.<name>.v1`: lower-case letters and digits.
    fn name(&self) -> &'static str;

    /// The version of the engine in this process, to compare with the engine's advisories.
    fn version(&self) -> Version;

    /// The key of compiled code: everything besides the wasm that the code depends on. `None`: the
    /// engine does not compile ahead of time; `compile` is never called and `load` gets
    /// [`Code::Wasm`].
    fn compile_key(&self) -> Option<CompileKey>;

    /// Checks a module or component in the binary format before it is compiled: its validity, the
    /// features that it uses, and for a start its imports and entry function. Only `wherry-<name>`
    /// calls it, and only for an engine with a compile key: `load` checks the rest.
    ///
    /// # Errors
    /// A [`LoadError`], after milliseconds where a compilation would take long.
    fn check(&self, wasm: &[u8], start: Option<&Start>) -> Result<(), LoadError> {
        // An engine without a validator reports faults when it compiles and loads.
        let _ = (wasm, start);
        Ok(())
    }

    /// The names of the import modules that loaded plug-ins provide.
    fn plugin_modules(&self) -> Vec<String> {
        Vec::new()
    }

    /// Compiles a module or component in the binary format to native code. Only `wherry-<name>`
    /// calls it: an engine host needs no compiler.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] with the fault's offset; [`CompileError::Io`] if writing to `out`
    /// fails.
    fn compile(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        // An engine without a compiler has no use for them.
        let _ = (wasm, out);
        Err(CompileError::Unsupported(format!(
            "this executable has no compiler for {0}: use wherry-{0}",
            self.name()
        )))
    }

    /// The key of baseline code, which compiles in much less time than `compile` takes and runs
    /// more slowly. A module's first start runs it, and the optimised code is compiled in the
    /// background. `None`: the engine compiles fast enough; `compile_baseline` is never called.
    fn baseline_key(&self) -> Option<CompileKey> {
        None
    }

    /// Compiles like [`Engine::compile`], to baseline code under [`Engine::baseline_key`]. `load`
    /// accepts both kinds of code.
    ///
    /// # Errors
    /// As for [`Engine::compile`].
    fn compile_baseline(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        self.compile(wasm, out)
    }

    /// The key of the code of a component that is started as a server although it also is a
    /// program: see [`SERVER`]. `None`: as all other code; `compile_server` is never called.
    fn server_key(&self) -> Option<CompileKey> {
        None
    }

    /// Compiles like [`Engine::compile`], to the code of a server under [`Engine::server_key`].
    ///
    /// # Errors
    /// As for [`Engine::compile`].
    fn compile_server(&self, wasm: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        self.compile(wasm, out)
    }

    /// Loads the engine's plug-ins from a file or from all files in a directory: native code that
    /// the machine's administrator trusts. Guests loaded afterwards may import from them. Called at
    /// most once, before the process forks; must not leave a second thread.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if the path holds no plug-in, or if the engine has no plug-ins.
    fn load_plugins(&self, path: &Path) -> Result<(), LoadError> {
        // An engine without plug-ins has no use for it.
        let _ = path;
        Err(LoadError::Engine(format!("{} does not support plug-ins", self.name())))
    }

    /// The numbers, on this architecture, of the system calls that this engine makes while a guest
    /// runs, besides those of every engine. All others fail. Memory that is not executable when
    /// `load` returns cannot become executable.
    fn system_calls(&self) -> &'static [i64] {
        &[]
    }

    /// The buffer in which the engine reads a symbolic link while it resolves a guest's path.
    /// `None`: the kernel resolves paths for this engine.
    fn link_buffer(&self) -> Option<LinkBuffer> {
        None
    }

    /// Prepares the guest: maps its code, resolves its imports and its entry function. Runs no code
    /// of the guest.
    ///
    /// # Errors
    /// A [`LoadError`] that names the missing import, function or directory.
    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError>;
}

/// The size of an engine's buffer for the target of a symbolic link. It distinguishes the engine's
/// calls of readlink from its guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkBuffer {
    /// The link's size and one byte, or 32 bytes without a size; doubled while the target fills it.
    Exact,
    /// This number of bytes.
    Fixed(u64),
}

/// A version of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The engine's name as its project writes it.
    pub engine: &'static str,
    /// The library's version, read at run time where the library has a function for it.
    pub number: String,
    /// The day of the version's release, such as `2026-01-31`. `None`: this build does not know the
    /// version.
    pub released: Option<&'static str>,
    /// The project that publishes the engine's advisories.
    pub advisories: &'static str,
}

impl Version {
    /// Returns the day of release of `number` from a list of versions and days.
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

/// The name after `#` that starts a component as a server of HTTP.
pub const SERVER: &str = "http";

/// A guest that is ready to run.
pub trait Program {
    /// Acquires the resources that others see from the start on: a server listens when this
    /// returns. Called once, before `run`, with all filters of the process installed. An error is
    /// that of the container's Start.
    ///
    /// # Errors
    /// If a resource is not available.
    fn start(&mut self) -> Result<(), StartError> {
        Ok(())
    }

    /// The descriptor to which this process writes a byte at the first SIGTERM or SIGINT, after
    /// which the guest ends in an orderly manner. The second signal ends the process. `None`: the
    /// first one does. Called once, after `start`.
    fn termination(&mut self) -> Option<OwnedFd> {
        None
    }

    /// Runs the guest to its end on this thread.
    ///
    /// # Errors
    /// A [`Trap`]. The guest's exit code, zero or not, is `Ok`.
    fn run(self: Box<Self>) -> Result<ExitCode, Trap>;
}

/// The key of compiled code: engine version, settings, CPU features. Engines with equal keys can
/// run each other's code. It becomes part of a file name: letters, digits, `.`, `-`, `_` and `+`
/// only, at most 100 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompileKey(pub String);

/// The code of a guest.
#[derive(Debug)]
pub enum Code {
    /// A module or component from the image, in the binary or the text format.
    Wasm(Vec<u8>),
    /// The output of this engine's `compile` under an equal key. Open for reading at offset 0.
    Compiled(File),
}

/// A guest: everything that it may use. Its standard streams are this process's descriptors 0, 1
/// and 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// The exported function to call without arguments. `None`: `_start` of a module,
    /// `wasi:cli/run` of a component.
    pub function: Option<String>,
    /// The arguments, the program's name first.
    pub args: Vec<String>,
    /// The environment, in the order of the container's configuration.
    pub env: Vec<(String, String)>,
    /// The working directory: an absolute path in the guest's view.
    pub cwd: PathBuf,
    /// The directories that the guest may open.
    pub preopens: Vec<Preopen>,
    /// The network that the guest may use.
    pub network: Network,
    /// The options of a server.
    pub http: Http,
}

/// A directory that a guest may open, with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preopen {
    /// Its path in this process.
    pub host: PathBuf,
    /// Its path in the guest.
    pub guest: String,
}

/// The network that a guest may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// No network.
    #[default]
    None,
    /// The process's network namespace: TCP, UDP and name resolution.
    Namespace,
}

/// The exit status of the guest's process: the low eight bits of the guest's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub u8);

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
