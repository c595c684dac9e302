//! Compiling with `wherry-E compile`, a process of its own: the side of whoever wants the code.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use wherry_image::{CacheError, Compiler, Size};

use crate::host::{DESCRIPTORS, EXIT_INVALID, EXIT_IO, QUICKLY};
use crate::launch::HostProgram;
use crate::process::{Exit, Reaper};

/// What one compilation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory, bytes.
    pub memory: u64,
    /// Seconds of all processors together. On the clock it may be a few times as many.
    pub seconds: u64,
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

/// Compiles with `wherry-E compile`.
#[derive(Debug)]
pub struct HostCompiler<'a> {
    /// The executable.
    pub program: &'a CompilerProgram,
    /// Who hears of its end. None: this process collects no children.
    pub reaper: Option<&'a Reaper>,
    /// What it may take.
    pub bounds: Bounds,
    /// What a person calls the module.
    pub module: &'a str,
    /// Whether it is quick code that is wanted.
    pub quickly: bool,
}

/// The argument behind `compile` that asks for what [`behind`] wants.
pub const BEHIND: &str = "--behind";

/// Has a module compiled that nobody waits for, by a process that outlives this one and takes only what
/// others leave of the processors. `turn` is the right to, see [`wherry_image::Cache::turn_behind`].
///
/// # Errors
/// When the process cannot be started.
#[allow(unsafe_code)]
pub fn behind(program: &CompilerProgram, module: &File, turn: File) -> io::Result<Child> {
    let mut command = Command::new(&program.0);
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

/// How often a long compilation is told of.
const TOLD: Duration = Duration::from_secs(5);
/// How many times as long as a compilation computes it may take: a busy machine is no fault.
const PATIENCE: u64 = 4;
/// A few sentences at most are shown, whatever the compiler thinks of a hostile module.
const TEXT_MAX: usize = 4096;

impl Compiler for HostCompiler<'_> {
    fn compile(&self, wasm: &File, digest: &str, out: &File) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::Compiler(error.to_string());
        let (reader, writer) = io::pipe().map_err(failed)?;
        let Bounds { memory, seconds } = self.bounds;
        let child = Command::new(&self.program.0)
            .args(["compile", DESCRIPTORS, digest, &memory.to_string(), &seconds.to_string()])
            .args(self.quickly.then_some(QUICKLY))
            .current_dir("/")
            .env_clear()
            .stdin(wasm.try_clone().map_err(failed)?)
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(writer)
            .spawn()
            .map_err(|error| {
                CacheError::Compiler(format!("cannot run {}: {error}", self.program.0.display()))
            })?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        let mut ending = match self.reaper {
            Some(reaper) => Ending::Told(reaper.wait(pid.as_raw())),
            None => Ending::Ours(child),
        };
        let (text, late) = self.listen(reader, pid, &mut ending).map_err(failed)?;
        match ending.status() {
            Some(_) if late => Err(CacheError::Compiler(self.cause(OUT_OF_TIME, &text))),
            Some(0) => Ok(()),
            Some(status) if status == u32::from(EXIT_INVALID) => Err(CacheError::Compile(text)),
            Some(status) if status == u32::from(EXIT_IO) => {
                Err(CacheError::NoRoom(io::Error::other(text)))
            }
            Some(status) => Err(CacheError::Compiler(self.cause(status, &text))),
            None => Err(CacheError::Compiler("the shim is ending".to_owned())),
        }
    }
}

impl HostCompiler<'_> {
    /// What the compiler says, to its end, and whether that did not come in time.
    fn listen(
        &self,
        mut reader: PipeReader,
        pid: Pid,
        ending: &mut Ending,
    ) -> io::Result<(String, bool)> {
        let limit = Duration::from_secs(self.bounds.seconds.saturating_mul(PATIENCE));
        let mut late = false;
        let start = Instant::now();
        let mut told = Duration::ZERO;
        let mut text = Vec::new();
        let mut buffer = [0; TEXT_MAX];
        loop {
            if is_readable(&reader, Duration::from_secs(1))? {
                let read = reader.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                let room = TEXT_MAX.saturating_sub(text.len()).min(read);
                text.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
            let taken = start.elapsed();
            let ended = ending.is_known();
            if ended || taken > limit {
                late |= !ended;
                // It is a session of its own: with all that it may have started.
                let _ = killpg(pid, Signal::SIGKILL);
            } else if taken - told >= TOLD {
                told = taken;
                log::info!("still compiling {} after {} s", self.module, taken.as_secs());
            }
        }
        Ok((String::from_utf8_lossy(&text).trim().replace('\n', " "), late))
    }

    /// Why a compiler ended that did not say it itself.
    fn cause(&self, status: u32, text: &str) -> String {
        let Bounds { memory, seconds } = self.bounds;
        match status {
            OUT_OF_TIME => {
                format!("it took longer than the {seconds} s of WHERRY_COMPILE_SECONDS")
            }
            KILLED => "the compiler was killed, as when the machine is out of memory".to_owned(),
            ABORTED if text.contains("memory allocation") => {
                format!("it took more memory than the {} of WHERRY_COMPILE_MEMORY", Size(memory))
            }
            _ => format!("the compiler ended with status {status}: {text}"),
        }
    }
}

/// 128 and the signal.
const ABORTED: u32 = 128 + Signal::SIGABRT as u32;
const KILLED: u32 = 128 + Signal::SIGKILL as u32;
const OUT_OF_TIME: u32 = 128 + Signal::SIGXCPU as u32;

/// How a child's end is learnt of.
enum Ending {
    Told(oneshot::Receiver<Exit>),
    Ours(Child),
    Known(u32),
}

impl Ending {
    fn is_known(&mut self) -> bool {
        let status = match self {
            Ending::Told(receiver) => receiver.try_recv().ok().map(|exit| exit.status),
            Ending::Ours(child) => child.try_wait().ok().flatten().map(status),
            Ending::Known(_) => return true,
        };
        if let Some(status) = status {
            *self = Ending::Known(status);
        }
        status.is_some()
    }

    fn status(self) -> Option<u32> {
        match self {
            Ending::Told(receiver) => receiver.blocking_recv().ok().map(|exit| exit.status),
            Ending::Ours(mut child) => child.wait().ok().map(status),
            Ending::Known(status) => Some(status),
        }
    }
}

fn status(status: ExitStatus) -> u32 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255)
}

fn is_readable(reader: &PipeReader, within: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
