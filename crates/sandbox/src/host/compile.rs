//! `wherry-E compile`: wasm in, native code out, in a process of its own.
//!
//! A compiler is a large program that reads a stranger's file. It runs with nothing but its
//! descriptors: as nobody, with no files but its own, no network and nothing that it could signal, with bounded
//! memory and time, and as the first to go when the machine is out of memory. What it prints is the
//! sentence that the user reads.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use wherry_engine::{CompileError, Engine};

use crate::compiler::Bounds;

/// The argument behind `compile` that asks for [`compile`].
pub const DESCRIPTORS: &str = "--descriptors";

/// The module is at fault: standard error has the sentence.
pub const EXIT_INVALID: u8 = 2;
/// The code could not be written.
pub const EXIT_IO: u8 = 3;

/// Who the compiler is when it was started by root: nobody.
const NOBODY: u32 = 65534;
/// A directory that every machine has, to put a filesystem of the compiler's own on.
const ANYWHERE: &str = "/proc";

/// The last argument, if the code is to be made quickly.
pub(crate) const QUICKLY: &str = "quickly";

/// Compiles descriptor 0, wasm in the binary or the text format, to descriptor 1. `args` are the
/// module's SHA-256, the [`Bounds`], and perhaps [`QUICKLY`].
#[must_use]
pub fn compile(engine: &dyn Engine, args: &[String]) -> ExitCode {
    let number = |text: &String| text.parse().ok();
    let bounds = match args {
        [_, memory, seconds, ..] => number(memory).zip(number(seconds)),
        _ => None,
    };
    let quickly = args.last().is_some_and(|arg| arg == QUICKLY);
    let result = match (args, bounds) {
        ([digest, ..], Some((memory, seconds))) => confine(Bounds { memory, seconds })
            .map_err(CompileError::Io)
            .and_then(|()| work(engine, digest, quickly)),
        _ => Err(CompileError::Unsupported(format!("{DESCRIPTORS} DIGEST BYTES SECONDS"))),
    };
    match result {
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

fn work(engine: &dyn Engine, digest: &str, quickly: bool) -> Result<(), CompileError> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let bytes = super::read_all(&input)?;
    // Whoever asked has read the file earlier, and somebody may have written to it since.
    if wherry_image::cache::digest(&bytes) != digest {
        let changed = "the module changes while it is read";
        return Err(CompileError::Unsupported(changed.to_owned()));
    }
    let wasm = binary(&bytes)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut output = BufWriter::with_capacity(1 << 20, output);
    if quickly {
        engine.compile_quickly(&wasm, &mut output)?;
    } else {
        engine.compile(&wasm, &mut output)?;
    }
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
fn confine(bounds: Bounds) -> io::Result<()> {
    // A signal to the daemon's group is not for us. Not if we lead a group already.
    let _ = nix::unistd::setsid();
    // Out of memory it is the compiler's fault. A process may always become likelier to be taken.
    let _ = std::fs::write(crate::daemon::OOM_SCORE_ADJ, "1000");
    // What is reserved and not touched does not count, unlike in RLIMIT_AS: the allocator reserves
    // much for each thread.
    setrlimit(Resource::RLIMIT_DATA, bounds.memory, bounds.memory)?;
    // The soft limit's signal tells what happened.
    setrlimit(Resource::RLIMIT_CPU, bounds.seconds, bounds.seconds.saturating_add(5))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if Uid::effective().is_root() {
        no_network()?;
        no_files(bounds.memory)?;
        nix::unistd::setgroups(&[])?;
        let gid = Gid::from_raw(NOBODY);
        nix::unistd::setresgid(gid, gid, gid)?;
        let uid = Uid::from_raw(NOBODY);
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    prctl::set_no_new_privs()?;
    // What it compiles is for the thread of the daemon that waits for it, and for nobody else. After the
    // change of user, which would undo it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
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

/// Into a filesystem of its own, in memory and as bounded as memory is. All that it reads and writes is already open; but some
/// compilers make files on the way, and look for `/tmp`.
fn no_files(bytes: u64) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = format!("mode=0755,size={bytes}");
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), ANYWHERE, Some("tmpfs"), flags, Some(options.as_str()))?;
    nix::unistd::chroot(ANYWHERE)?;
    nix::unistd::chdir("/")?;
    let temporary = std::env::temp_dir();
    DirBuilder::new().recursive(true).create(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777))
}

/// Into namespaces without a network, and with nobody to talk to. A kernel without them has less to take.
fn no_network() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
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
