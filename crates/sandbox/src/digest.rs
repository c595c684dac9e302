//! The digest of a large module, made by a process in the container's cgroup.
//!
//! The daemon is in no container's cgroup: what it reads itself is charged to the machine, and a request that waits for
//! it cannot end it. So a large module is read by a process of the daemon's own executable, which joins the cgroup before it
//! reads, and which is killed when the module is not wanted any more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use wherry_image::CacheError;
use wherry_image::cache::digest_of;

use crate::bundle::CgroupName;
use crate::cgroup;
use crate::child::{End, converse};
use crate::process::Reaper;

/// The word behind which the daemon's executable does this.
pub const DIGEST: &str = "digest";

/// A file of at most this many bytes is read in the daemon: it takes some ten milliseconds, and to start a process and to
/// move it into a cgroup takes as long.
pub const LARGE: u64 = 4 << 20;

/// The words for what manages the cgroup.
const CGROUPFS: &str = "cgroupfs";
const SYSTEMD: &str = "systemd";

/// Digests the first `size` bytes of a module in a process of `program` that joins `cgroup`.
pub(crate) fn charged_to(
    program: &Path,
    cgroup: &CgroupName,
    module: &File,
    size: u64,
    reaper: Option<&Reaper>,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<String, CacheError> {
    let (reader, writer) = io::pipe().map_err(CacheError::Read)?;
    let mut command = Command::new(program);
    command.arg0("wherry-digest").args([
        DIGEST,
        &size.to_string(),
        if cgroup.systemd { SYSTEMD } else { CGROUPFS },
    ]);
    command.arg(&cgroup.path).current_dir("/").env_clear();
    command.stdin(module.try_clone().map_err(CacheError::Read)?).stdout(writer);
    let child = command.stderr(Stdio::null()).spawn().map_err(CacheError::Read)?;
    // With it goes our end of the pipe.
    drop(command);
    let mut look = |_| if is_cancelled() { Err(End::Cancelled) } else { Ok(()) };
    let failed = |text: String| Err(CacheError::Read(io::Error::other(text)));
    match converse(child, reader, reaper, &mut look).map_err(CacheError::Read)? {
        (End::Status(0), digest) if digest.len() == DIGITS => Ok(digest),
        (End::Status(1), text) => failed(text),
        (End::Status(KILLED), _) => failed(
            "the process that reads it for the container was killed, as when the container's memory limit is too low"
                .to_owned(),
        ),
        (End::Status(status), _) => {
            failed(format!("the process that reads it for the container ended with status {status}"))
        }
        (End::Cancelled | End::Late, _) => Err(CacheError::Cancelled),
        (End::Unknown, _) => failed("the shim is ending".to_owned()),
    }
}

/// Of a SHA-256 in hexadecimal.
const DIGITS: usize = 64;

const USAGE: &str = "usage: digest BYTES cgroupfs|systemd CGROUP";

const KILLED: u32 = 128 + Signal::SIGKILL as u32;

/// Digests standard input and prints the result, or the error. `args` are the number of bytes and the cgroup to join.
#[must_use]
pub fn digest(args: &[String]) -> ExitCode {
    let result = match args {
        [size, driver, path] if driver == CGROUPFS || driver == SYSTEMD => size
            .parse()
            .map_err(|_| USAGE.to_owned())
            .and_then(|size| join_and_digest(size, driver == SYSTEMD, Path::new(path))),
        _ => Err(USAGE.to_owned()),
    };
    let (code, text) = match result {
        Ok(digest) => (ExitCode::SUCCESS, digest),
        Err(error) => (ExitCode::FAILURE, error),
    };
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

fn join_and_digest(size: u64, systemd: bool, path: &Path) -> Result<String, String> {
    // It works for the thread of the daemon that waits for it.
    let _ = nix::unistd::setsid();
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    // The daemon's own is not for what runs in a container's cgroup: when that is out of memory this process goes first.
    let _ = fs::write(crate::daemon::OOM_SCORE_ADJ, "1000");
    cgroup::join(path, systemd)
        .map_err(|error| format!("cannot read it in cgroup {}: {error}", path.display()))?;
    let module = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    digest_of(&File::from(module), size).map_err(|error| error.to_string())
}
