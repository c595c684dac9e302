//! The digest of a large module, computed by a process in the container's cgroup.
//!
//! The daemon is in no container's cgroup: its reads are charged to the machine, and a
//! Kill or Delete could not end it. So a process of the daemon's own executable joins the cgroup,
//! reads the module, and is killed when Create is cancelled.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use wherry_cgroup::{CgroupError, CgroupName};
use wherry_image::CacheError;
use wherry_image::cache::digest_of;
use wherry_sys::child::{self, End};
use wherry_sys::daemon::OOM_SCORE_ADJ;
use wherry_sys::reaper::Reaper;

/// The first argument of the daemon's executable for this process.
pub const DIGEST: &str = "digest";

/// A module of at most this many bytes is digested in the daemon: that takes some ten milliseconds,
/// as long as starting a process and moving it into a cgroup.
pub const LARGE: u64 = 4 << 20;

/// The arguments that name the cgroup's driver.
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
    let driver = if cgroup.systemd { SYSTEMD } else { CGROUPFS };
    command.arg0("wherry-digest").args([DIGEST, &size.to_string(), driver]);
    command.arg(&cgroup.path).current_dir("/").env_clear();
    command.stdin(module.try_clone().map_err(CacheError::Read)?).stdout(writer);
    let child = command.stderr(Stdio::null()).spawn().map_err(CacheError::Read)?;
    // Closes this process's writing end of the pipe.
    drop(command);
    let mut check = |_| if is_cancelled() { Err(End::Cancelled) } else { Ok(()) };
    let failed = |text: String| Err(CacheError::Read(io::Error::other(text)));
    match child::wait(child, reader, reaper, &mut check).map_err(CacheError::Read)? {
        (End::Status(0), digest) if digest.len() == DIGITS => Ok(digest),
        (End::Status(1), text) => failed(text),
        (End::Status(KILLED), _) => failed(
            "the process that reads it for the container was killed: the container's memory limit may be too low"
                .to_owned(),
        ),
        (End::Status(status), _) => {
            failed(format!("the process that reads it for the container ended with status {status}"))
        }
        (End::Cancelled | End::Late, _) => Err(CacheError::Cancelled),
        (End::Unknown, _) => failed("the shim is shutting down".to_owned()),
    }
}

/// The length of a SHA-256 in hexadecimal.
const DIGITS: usize = 64;

const KILLED: u32 = 128 + Signal::SIGKILL as u32;

/// Why a digest could not be computed.
#[derive(Debug, thiserror::Error)]
enum DigestError {
    #[error("usage: digest BYTES cgroupfs|systemd CGROUP")]
    Usage,
    #[error("cannot read the module in the container's cgroup: {0}")]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Digests standard input and prints the result, or the error. `args` are the number of bytes, the
/// driver and the path of the cgroup to join.
#[must_use]
pub fn digest(args: &[String]) -> ExitCode {
    let (code, text) = match parse(args).and_then(|(size, name)| join_and_digest(size, &name)) {
        Ok(digest) => (ExitCode::SUCCESS, digest),
        Err(error) => (ExitCode::FAILURE, error.to_string()),
    };
    // A daemon that has closed the pipe no longer wants the digest.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

fn parse(args: &[String]) -> Result<(u64, CgroupName), DigestError> {
    let [size, driver, path] = args else { return Err(DigestError::Usage) };
    let size = size.parse().map_err(|_| DigestError::Usage)?;
    let systemd = match driver.as_str() {
        CGROUPFS => false,
        SYSTEMD => true,
        _ => return Err(DigestError::Usage),
    };
    Ok((size, CgroupName { path: path.into(), systemd }))
}

fn join_and_digest(size: u64, cgroup: &CgroupName) -> Result<String, DigestError> {
    // A separate process group, which the daemon kills. It fails only for a group's leader.
    let _ = nix::unistd::setsid();
    // The kernel kills this process when the daemon's thread that waits for it ends. The call
    // cannot fail with a valid signal.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    // When the container's cgroup is out of memory, the kernel kills this process first. Raising
    // the score needs no capability; without procfs it stays that of the daemon.
    let _ = fs::write(OOM_SCORE_ADJ, "1000");
    wherry_cgroup::join(cgroup)?;
    let module = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(digest_of(&File::from(module), size)?)
}
