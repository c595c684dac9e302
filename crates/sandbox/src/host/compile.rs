//! `wherry-E compile`: wasm in, native code out, in a process of its own.
//!
//! A compiler is a large program that reads a stranger's file. It runs with nothing but its two
//! descriptors: no privileges, no files, bounded memory and time. What it prints is the sentence
//! that the user reads.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use wherry_engine::{CompileError, Engine};

/// The module is at fault: standard error has the sentence.
pub const EXIT_INVALID: u8 = 2;
/// The code could not be written.
pub const EXIT_IO: u8 = 3;

/// Who the compiler is when it was started by root: nobody.
const NOBODY: u32 = 65534;
/// Processor time, seconds. A 60 MB module takes about 60 on one core.
const CPU_SECONDS: u64 = 600;

/// Compiles descriptor 0, wasm in the binary or the text format, to descriptor 1.
#[must_use]
pub fn compile(engine: &dyn Engine) -> ExitCode {
    match confine().map_err(CompileError::Io).and_then(|()| work(engine)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error {
                CompileError::Io(_) => EXIT_IO,
                CompileError::Invalid(_) | CompileError::Unsupported(_) => EXIT_INVALID,
            };
            let _ = io::stderr().write_all(error.to_string().as_bytes());
            ExitCode::from(code)
        }
    }
}

fn work(engine: &dyn Engine) -> Result<(), CompileError> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let bytes = super::read_all(&input)?;
    let wasm = binary(&bytes)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut output = BufWriter::with_capacity(1 << 20, output);
    engine.compile(&wasm, &mut output)?;
    output.flush()?;
    Ok(())
}

/// The binary format of `bytes`, which may be text.
pub(super) fn binary(bytes: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, CompileError> {
    wat::Parser::new().parse_bytes(None, bytes).map_err(|error| {
        // The parser draws the place with a caret over several lines; here it is one line.
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim);
        let what = lines.next().unwrap_or_default();
        let place = lines.next().and_then(|line| line.strip_prefix("--> <anon>:"));
        let source = lines.find_map(|line| line.split_once(" | "));
        CompileError::Invalid(match (place, source) {
            (Some(place), Some((_, source))) => format!("{what} at {place}: {}", source.trim()),
            _ => what.to_owned(),
        })
    })
}

/// Gives up what a compiler does not need.
fn confine() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // No files of its own: all that it reads and writes is already open.
    if Uid::effective().is_root() {
        nix::unistd::chdir("/")?;
        nix::unistd::setgroups(&[])?;
        let gid = Gid::from_raw(NOBODY);
        nix::unistd::setresgid(gid, gid, gid)?;
        let uid = Uid::from_raw(NOBODY);
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    // What it compiles is for the thread of the daemon that waits for it, and for nobody else. After the
    // change of user, which would undo it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before that. Then nobody reads either what we would have to say.
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds.first().and_then(PollFd::revents) {
        Some(events) if events.contains(PollFlags::POLLERR) => {
            Err(io::Error::other("nobody waits for the code"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_text_is_one_line_with_its_place() {
        let error = binary(b"(module\n  (func $f (bogus)))\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid WebAssembly: unknown operator or unexpected token at 2:13: (func $f (bogus)))"
        );
    }
}
