//! The daemon's side of the compiler process, `wherry-E compile`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use wherry_cgroup::CgroupName;
use wherry_image::{CacheError, Compiler, Size};
use wherry_protocol::compile::{
    BACKGROUND, BASELINE, Bounds, DESCRIPTORS, EXIT_CHANGED, EXIT_INVALID, EXIT_IO, MEMORY_MIN,
};
use wherry_sys::child::{self, End};
use wherry_sys::reaper::Reaper;

use crate::cancel::Cancel;
use crate::digest;
use crate::program::Program;

/// Compiles modules with `wherry-E compile`.
#[derive(Debug)]
pub struct ProcessCompiler<'a> {
    /// The executable.
    pub program: &'a Program,
    /// Reaps the compiler. None: it is waited for directly.
    pub reaper: Option<&'a Reaper>,
    /// The resource limits.
    pub bounds: Bounds,
    /// The module's name, for the log.
    pub module: &'a str,
    /// Whether to compile baseline code.
    pub baseline: bool,
    /// Whether this process holds the cache's lock for background compilation.
    pub background: bool,
    /// The conditions of the start, which the compiler checks first; empty: none.
    pub start: &'a [String],
    /// The cgroup that the digest of a large module is charged to. None: no container needs the
    /// code yet.
    pub cgroup: Option<&'a CgroupName>,
    /// Cancels the compilation.
    pub cancel: Option<&'a Cancel>,
}

/// Starts a compilation that no start waits for, in a process that outlives this one and yields to
/// all others. `lock` is the cache's lock for background compilation, which that process holds.
///
/// # Errors
/// If the process cannot be started.
pub fn compile_in_background(program: &Program, module: &File, lock: File) -> io::Result<Child> {
    let mut command = program.command()?;
    command.args(["compile", BACKGROUND]).current_dir("/");
    // Standard output is the lock, which is held for as long as the process lives: it prints
    // nothing.
    command.stdin(module.try_clone()?).stdout(lock).stderr(Stdio::null());
    command.spawn()
}

/// The interval at which a long compilation is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// The wall time that a compilation may take, as a multiple of its CPU time: on a busy machine it
/// waits for a processor.
const WALL_FACTOR: u32 = 4;

/// This executable, also after it was replaced.
const OWN: &str = "/proc/self/exe";

impl Compiler for ProcessCompiler<'_> {
    fn compile(&self, wasm: &File, digest: &str, slot: u32, out: &File) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::Compiler(error.to_string());
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = self.program.command().map_err(failed)?;
        command
            .args(["compile", DESCRIPTORS, digest, &self.bounds.to_string(), &slot.to_string()])
            .args(self.baseline.then_some(BASELINE))
            .args(self.start)
            .current_dir("/")
            .env_clear()
            .stdin(wasm.try_clone().map_err(failed)?)
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(writer);
        let child = command.spawn().map_err(|error| {
            CacheError::Compiler(format!("cannot run {}: {error}", self.program.path().display()))
        })?;
        // Closes this process's writing end of the pipe.
        drop(command);
        let limit = Duration::from_secs(self.bounds.seconds).saturating_mul(WALL_FACTOR);
        let mut logged = Duration::ZERO;
        let mut check = |taken: Duration| {
            if self.is_cancelled() {
                return Err(End::Cancelled);
            }
            if taken > limit {
                return Err(End::Late);
            }
            if taken - logged >= LOG_INTERVAL {
                logged = taken;
                log::info!("still compiling {} after {} s", self.module, taken.as_secs());
            }
            Ok(())
        };
        match child::wait(child, reader, self.reaper, &mut check).map_err(failed)? {
            (End::Status(0), _) => Ok(()),
            (End::Status(status), text) => Err(self.cause(status, text)),
            (End::Cancelled, _) => Err(CacheError::Cancelled),
            (End::Late, _) => {
                let seconds = limit.as_secs();
                let text = format!("it was not ready after {seconds} s: the machine is busy");
                Err(CacheError::Compiler(text))
            }
            (End::Unknown, _) => Err(CacheError::Compiler("the shim is shutting down".to_owned())),
        }
    }

    fn digest(&self, wasm: &File, size: u64) -> Result<String, CacheError> {
        match self.cgroup {
            Some(cgroup) if size > digest::LARGE => {
                let is_cancelled = || self.is_cancelled();
                digest::charged_to(Path::new(OWN), cgroup, wasm, size, self.reaper, &is_cancelled)
            }
            _ => wherry_image::cache::digest_of(wasm, size).map_err(CacheError::Read),
        }
    }

    fn bounds(&self) -> String {
        // One line. A failure under these conditions does not apply to a start under others.
        format!("{} {:?}", self.bounds, self.start)
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(Cancel::is_cancelled)
    }

    fn is_background(&self) -> bool {
        self.background
    }
}

impl ProcessCompiler<'_> {
    /// Why the compiler ended without code. `text` is its standard error.
    fn cause(&self, status: u32, text: String) -> CacheError {
        let Bounds { memory, seconds, code, .. } = self.bounds;
        match status {
            INVALID => CacheError::Compile(text),
            IO => CacheError::NoRoom(io::Error::other(text)),
            CHANGED => CacheError::Read(io::Error::other(text)),
            OUT_OF_TIME => CacheError::Exceeded(format!(
                "it took longer than the {seconds} s of WHERRY_COMPILE_SECONDS"
            )),
            TOO_LARGE => CacheError::Exceeded(format!("its code is larger than {}", Size(code))),
            ABORTED if OUT_OF_MEMORY.iter().any(|cause| text.contains(cause)) => {
                CacheError::Exceeded(format!(
                    "it took more memory than {}: the container's memory limit, at least {} and at most \
                     WHERRY_COMPILE_MEMORY",
                    Size(memory),
                    Size(MEMORY_MIN)
                ))
            }
            KILLED => CacheError::Compiler(
                "the compiler was killed: the machine may be out of memory".to_owned(),
            ),
            _ => CacheError::Exceeded(format!("the compiler ended with status {status}: {text}")),
        }
    }
}

const INVALID: u32 = EXIT_INVALID as u32;
const IO: u32 = EXIT_IO as u32;
const CHANGED: u32 = EXIT_CHANGED as u32;
/// 128 plus the signal.
const ABORTED: u32 = 128 + Signal::SIGABRT as u32;
/// The words of Rust's, LLVM's and C++'s failed allocations before they abort.
const OUT_OF_MEMORY: [&str; 3] = ["memory allocation", "out of memory", "std::bad_alloc"];
const KILLED: u32 = 128 + Signal::SIGKILL as u32;
const OUT_OF_TIME: u32 = 128 + Signal::SIGXCPU as u32;
const TOO_LARGE: u32 = 128 + Signal::SIGXFSZ as u32;
