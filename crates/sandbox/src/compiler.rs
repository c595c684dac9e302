//! Compiling with `wherry-E compile`, a process of its own: the side that wants the code.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use wherry_image::{CacheError, Compiler, Size};

use crate::bundle::CgroupName;
use crate::cancel::Cancel;
use crate::child::{End, converse};
use crate::digest;
use crate::host::{DESCRIPTORS, EXIT_CHANGED, EXIT_INVALID, EXIT_IO, QUICKLY};
use crate::launch::HostProgram;
use crate::process::Reaper;
use crate::readonly;

/// What one compilation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory, bytes.
    pub memory: u64,
    /// Seconds of all processors together. On the clock it may be a few times as many.
    pub seconds: u64,
    /// The size of the module, bytes.
    pub module: u64,
    /// The size of the code, bytes.
    pub code: u64,
}

/// The memory that a compilation has in any case: a small module takes a compiler some hundred megabytes.
const MEMORY_MIN: u64 = 512 << 20;

impl Bounds {
    /// The bounds for the module of a container with this memory limit, if it has one: as much memory as the container has,
    /// but 512 MiB at least and what these bounds say at most.
    ///
    /// The compiler is not in the container's cgroup: a container of 16 MB could not start a new module then. What the whole
    /// machine compiles at a time is bounded by the number of slots, see [`wherry_image::cache`], times this.
    #[must_use]
    pub fn within(self, limit: Option<u64>) -> Bounds {
        let memory = limit.map_or(self.memory, |limit| limit.max(MEMORY_MIN).min(self.memory));
        Bounds { memory, ..self }
    }
}

/// As an argument, and in the records of failures: bytes of memory, seconds, bytes of module and of code.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { memory, seconds, module, code } = self;
        write!(f, "{memory},{seconds},{module},{code}")
    }
}

impl FromStr for Bounds {
    type Err = ();

    fn from_str(text: &str) -> Result<Bounds, ()> {
        let mut numbers = text.split(',').map(|number| number.parse().map_err(|_| ()));
        let mut next = || numbers.next().unwrap_or(Err(()));
        Ok(Bounds { memory: next()?, seconds: next()?, module: next()?, code: next()? })
    }
}

/// The compiler's executable, `wherry-E`.
#[derive(Debug, Clone)]
pub struct CompilerProgram(PathBuf);

impl CompilerProgram {
    /// It lies beside the engine host.
    #[must_use]
    pub fn beside(host: &HostProgram, engine: &str) -> CompilerProgram {
        CompilerProgram(host.path().with_file_name(format!("wherry-{engine}")))
    }

    /// This very executable, for its other commands.
    ///
    /// # Errors
    /// When the kernel does not tell where it is.
    pub fn own() -> io::Result<CompilerProgram> {
        std::env::current_exe().map(CompilerProgram)
    }
}

impl CompilerProgram {
    /// The path to execute: a read-only view of the executable, where this process may mount one. A process can open its
    /// own executable for writing, and the compiler is root's.
    fn to_execute(&self) -> io::Result<PathBuf> {
        if nix::unistd::geteuid().is_root() { readonly::view(&self.0) } else { Ok(self.0.clone()) }
    }
}

/// Compiles with `wherry-E compile`.
pub struct HostCompiler<'a> {
    /// The executable.
    pub program: &'a CompilerProgram,
    /// Where its end is learnt of. None: this process collects no children.
    pub reaper: Option<&'a Reaper>,
    /// What it may take.
    pub bounds: Bounds,
    /// What a person calls the module.
    pub module: &'a str,
    /// Whether it is quick code that is wanted.
    pub quickly: bool,
    /// Whether the turn of [`wherry_image::Cache::background_lock`] is held.
    pub behind: bool,
    /// For which container. None: for a person.
    pub customer: Option<Customer<'a>>,
    /// The conditions of the start, which the compiler checks first. Empty: there are none to check.
    pub start: &'a [String],
}

/// The container whose module is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Customer<'a> {
    /// Its cgroup, to which the reading of a large module is charged.
    pub cgroup: &'a CgroupName,
    /// Whether its code is still wanted.
    pub cancel: &'a Cancel,
}

/// The argument behind `compile` that asks for what [`behind`] wants.
pub const BEHIND: &str = "--behind";

/// Has a module compiled that nobody waits for, by a process that outlives this one and takes only what
/// others leave of the processors. `turn` is the right to, see [`wherry_image::Cache::background_lock`].
///
/// # Errors
/// When the process cannot be started.
#[allow(unsafe_code)]
pub fn behind(program: &CompilerProgram, module: &File, turn: File) -> io::Result<Child> {
    let mut command = Command::new(program.to_execute()?);
    command.args(["compile", BEHIND]).current_dir("/");
    // It says nothing: its output is where the turn lies for as long as it lives.
    command.stdin(module.try_clone()?).stdout(turn).stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on plain numbers.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::setpriority(libc::PRIO_PROCESS, 0, 19);
            let idle = libc::sched_param { sched_priority: 0 };
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle);
            Ok(())
        });
    }
    command.spawn()
}

/// How often a long compilation is written to the log.
const TOLD: Duration = Duration::from_secs(5);
/// How many times as long as a compilation computes it may take: a busy machine is no fault.
const PATIENCE: u32 = 4;

/// This executable, also after it was replaced.
const OWN: &str = "/proc/self/exe";

impl Compiler for HostCompiler<'_> {
    fn compile(&self, wasm: &File, digest: &str, slot: u32, out: &File) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::Compiler(error.to_string());
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new(self.program.to_execute().map_err(failed)?);
        command
            .args(["compile", DESCRIPTORS, digest, &self.bounds.to_string(), &slot.to_string()])
            .args(self.quickly.then_some(QUICKLY))
            .args(self.start)
            .current_dir("/")
            .env_clear()
            .stdin(wasm.try_clone().map_err(failed)?)
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(writer);
        let child = command.spawn().map_err(|error| {
            CacheError::Compiler(format!("cannot run {}: {error}", self.program.0.display()))
        })?;
        // With it goes our end of the pipe.
        drop(command);
        let limit = Duration::from_secs(self.bounds.seconds).saturating_mul(PATIENCE);
        let mut told = Duration::ZERO;
        let mut look = |taken: Duration| {
            if self.is_cancelled() {
                return Err(End::Cancelled);
            }
            if taken > limit {
                return Err(End::Late);
            }
            if taken - told >= TOLD {
                told = taken;
                log::info!("still compiling {} after {} s", self.module, taken.as_secs());
            }
            Ok(())
        };
        match converse(child, reader, self.reaper, &mut look).map_err(failed)? {
            (End::Status(0), _) => Ok(()),
            (End::Status(status), text) => Err(self.cause(status, text)),
            (End::Cancelled, _) => Err(CacheError::Cancelled),
            (End::Late, _) => {
                let seconds = limit.as_secs();
                let text = format!("it was not ready after {seconds} s: the machine is busy");
                Err(CacheError::Compiler(text))
            }
            (End::Unknown, _) => Err(CacheError::Compiler("the shim is ending".to_owned())),
        }
    }

    fn digest(&self, wasm: &File, size: u64) -> Result<String, CacheError> {
        match self.customer {
            Some(Customer { cgroup, .. }) if size > digest::LARGE => {
                let is_cancelled = || self.is_cancelled();
                digest::charged_to(Path::new(OWN), cgroup, wasm, size, self.reaper, &is_cancelled)
            }
            _ => wherry_image::cache::digest_of(wasm, size).map_err(CacheError::Read),
        }
    }

    fn bounds(&self) -> String {
        // One line: a failure of one start is not that of a start under other conditions.
        format!("{} {:?}", self.bounds, self.start)
    }

    fn is_cancelled(&self) -> bool {
        self.customer.is_some_and(|customer| customer.cancel.is_cancelled())
    }

    fn is_background(&self) -> bool {
        self.behind
    }
}

impl HostCompiler<'_> {
    /// Why a compiler ended without code; `text` is what it said itself.
    fn cause(&self, status: u32, text: String) -> CacheError {
        let Bounds { memory, seconds, code, .. } = self.bounds;
        match status {
            INVALID => CacheError::Compile(text),
            IO => CacheError::NoRoom(io::Error::other(text)),
            CHANGED => CacheError::Read(io::Error::other(text)),
            OUT_OF_TIME => CacheError::Exceeded(format!(
                "it took longer than the {seconds} s of WHERRY_COMPILE_SECONDS"
            )),
            TOO_LARGE => CacheError::Exceeded(format!("its code has more than {}", Size(code))),
            ABORTED if text.contains("memory allocation") || text.contains("out of memory") => {
                CacheError::Exceeded(format!(
                    "it took more memory than {}: as much as the container may have, but {} at least and \
                     WHERRY_COMPILE_MEMORY at most",
                    Size(memory),
                    Size(MEMORY_MIN)
                ))
            }
            KILLED => CacheError::Compiler(
                "the compiler was killed, as when the machine is out of memory".to_owned(),
            ),
            _ => CacheError::Exceeded(format!("the compiler ended with status {status}: {text}")),
        }
    }
}

const INVALID: u32 = EXIT_INVALID as u32;
const IO: u32 = EXIT_IO as u32;
const CHANGED: u32 = EXIT_CHANGED as u32;
/// 128 and the signal.
const ABORTED: u32 = 128 + Signal::SIGABRT as u32;
const KILLED: u32 = 128 + Signal::SIGKILL as u32;
const OUT_OF_TIME: u32 = 128 + Signal::SIGXCPU as u32;
const TOO_LARGE: u32 = 128 + Signal::SIGXFSZ as u32;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { memory: 4 << 30, seconds: 600, module: 1 << 30, code: 2 << 30 };

    #[test]
    fn a_compilation_has_the_containers_memory_within_a_floor_and_a_ceiling() {
        let memory = |limit| BOUNDS.within(limit).memory;
        assert_eq!(memory(None), 4 << 30);
        assert_eq!(memory(Some(16 << 20)), 512 << 20);
        assert_eq!(memory(Some(1 << 30)), 1 << 30);
        assert_eq!(memory(Some(1 << 40)), 4 << 30);
        let small = Bounds { memory: 1 << 20, ..BOUNDS };
        assert_eq!(small.within(Some(1 << 30)).memory, 1 << 20);
    }

    #[test]
    fn bounds_are_read_as_they_are_written() {
        assert_eq!(BOUNDS.to_string().parse(), Ok(BOUNDS));
        for wrong in ["", "1,2,3", "1,2,3,x", "-1,2,3,4"] {
            assert_eq!(wrong.parse::<Bounds>(), Err(()), "{wrong}");
        }
    }
}
