//! Becoming a daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// How likely the kernel is to take this process when memory is short.
pub(crate) const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// The largest value: the kernel kills such a process first.
const OOM_SCORE_ADJ_MAX: i32 = 1000;

static INHERITED: OnceLock<String> = OnceLock::new();

/// Forks. In the parent: true. In the child, detached from the session, the terminal and all
/// descriptors of whoever called, but for `kept`: false.
///
/// # Errors
/// When the kernel will not, or this process has more than one thread.
#[allow(unsafe_code)]
pub fn fork_off(kept: &UnixListener) -> io::Result<bool> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process of several threads does not fork"));
    }
    // SAFETY: this process has a single thread, so the child's memory is whole.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(true),
        ForkResult::Child => {
            setsid()?;
            // A relative path is nobody's, and the caller's directory may go.
            nix::unistd::chdir("/")?;
            // The caller waits for the end of both: kept open they would make it hang.
            let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            dup2_stderr(&null)?;
            drop(null);
            close_others(kept.as_raw_fd());
            Ok(false)
        }
    }
}

/// Closes every descriptor above 2 but one: what the caller had open is not for us.
#[allow(unsafe_code)]
fn close_others(kept: i32) {
    let kept = kept.unsigned_abs();
    // SAFETY: nothing in this process uses a descriptor above 2 but the listener.
    unsafe {
        libc::close_range(3, kept.saturating_sub(1), 0);
        libc::close_range(kept + 1, u32::MAX, 0);
    }
}

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Sets this process's `oom_score_adj` to containerd's, which it inherited, plus one, as runc's shim
/// does: when memory is short, the kernel kills a shim before containerd. Raising it needs no
/// capability.
///
/// # Errors
/// When the value cannot be written; it is then containerd's.
pub fn raise_oom_score_adj() -> io::Result<()> {
    let inherited: i32 = inherited_oom_score_adj().parse().map_err(io::Error::other)?;
    fs::write(OOM_SCORE_ADJ, inherited.saturating_add(1).min(OOM_SCORE_ADJ_MAX).to_string())
}

/// How likely this process was to be taken before [`raise_oom_score_adj`].
pub(crate) fn inherited_oom_score_adj() -> &'static str {
    INHERITED.get_or_init(|| {
        let text = fs::read_to_string(OOM_SCORE_ADJ).unwrap_or_default();
        if text.is_empty() { "0".to_owned() } else { text.trim().to_owned() }
    })
}

/// Keeps the signals with which a terminal or a service manager ends a group of processes from
/// ending the daemon: containerd ends it with Shutdown.
#[allow(unsafe_code)]
pub fn ignore_requests_to_end() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE] {
        // SAFETY: to ignore a signal needs no handler.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// Writes a small file whole: aside first, then under its name.
///
/// # Errors
/// When the directory is full or not writable.
pub fn write_whole(path: &Path, contents: &str) -> io::Result<()> {
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    File::create(&aside)?.write_all(contents.as_bytes())?;
    fs::rename(&aside, path)
}

/// Puts this process into the cgroup at `path` below each hierarchy, where it exists or can be
/// made.
pub fn join_cgroup(path: &str) {
    let pid = std::process::id().to_string();
    let relative = path.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    if let Ok(entries) = fs::read_dir(root)
        && !root.join("cgroup.controllers").exists()
    {
        hierarchies = entries.flatten().map(|entry| entry.path()).collect();
    }
    for hierarchy in hierarchies {
        let group = hierarchy.join(relative);
        let joined =
            fs::create_dir_all(&group).and_then(|()| fs::write(group.join("cgroup.procs"), &pid));
        if let Err(error) = joined {
            log::warn!("cannot join the shim's cgroup {}: {error}", group.display());
        }
    }
}
