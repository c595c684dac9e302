//! A daemon: its fork, OOM score, signals and cgroup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};
use serde::{Deserialize, Serialize};

use crate::process::Pid;

/// The OOM score adjustment of this process: -1000 (never killed) to 1000 (killed first).
pub const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// The largest value: the kernel kills a process with it first.
const OOM_SCORE_ADJ_MAX: i32 = 1000;

static INHERITED: OnceLock<String> = OnceLock::new();
/// The limit on descriptors before [`raise_descriptor_limit`].
static DESCRIPTORS: OnceLock<libc::rlimit> = OnceLock::new();

/// Forks. Returns true in the parent, and false in the child, which leads a new session and has no
/// descriptor of the caller except `kept`.
///
/// # Errors
/// If the fork fails, or this process has more than one thread.
#[allow(unsafe_code)]
pub fn fork_off(kept: &UnixListener) -> io::Result<bool> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("cannot fork: the process has more than one thread"));
    }
    // SAFETY: this process has a single thread.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(true),
        ForkResult::Child => {
            setsid()?;
            // The caller's directory may be removed or unmounted.
            nix::unistd::chdir("/")?;
            // The caller reads standard output and error to their end: if this process kept them
            // open, the caller would wait for its exit.
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

/// Closes every descriptor above 2 that the caller left open, except `kept`.
#[allow(unsafe_code)]
fn close_others(kept: i32) {
    let kept = kept.unsigned_abs();
    // SAFETY: this process uses no descriptor above 2 but the listener.
    unsafe {
        libc::close_range(3, kept.saturating_sub(1), 0);
        libc::close_range(kept + 1, u32::MAX, 0);
    }
}

/// The effective user id of this process.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Sets this process's `oom_score_adj` to containerd's, which it inherited, plus one, as runc's
/// shim does: when memory is short, the kernel kills a shim before containerd. Raising the value
/// needs no capability.
///
/// # Errors
/// If the value cannot be written; it is then containerd's.
pub fn raise_oom_score_adj() -> io::Result<()> {
    let inherited: i32 = inherited_oom_score_adj().parse().map_err(io::Error::other)?;
    fs::write(OOM_SCORE_ADJ, inherited.saturating_add(1).min(OOM_SCORE_ADJ_MAX).to_string())
}

/// The OOM score adjustment of this process before [`raise_oom_score_adj`].
pub fn inherited_oom_score_adj() -> &'static str {
    INHERITED.get_or_init(|| {
        let text = fs::read_to_string(OOM_SCORE_ADJ).unwrap_or_default();
        // Without procfs: the kernel's initial value.
        if text.is_empty() { "0".to_owned() } else { text.trim().to_owned() }
    })
}

/// Raises the soft limit on descriptors of this process to the hard one: a manager has some twelve
/// for each container, and a service usually has a soft limit of 1024.
///
/// # Errors
/// If the limit cannot be read or set; it is then containerd's.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // The first call counts.
    let _ = DESCRIPTORS.set(libc::rlimit { rlim_cur: soft, rlim_max: hard });
    Ok(())
}

/// Gives a child the limit on descriptors from before [`raise_descriptor_limit`], if that was
/// called: a guest inherits it. A child that has ended needs none.
#[allow(unsafe_code)]
pub fn restore_descriptor_limit(child: Pid) {
    if let Some(limit) = DESCRIPTORS.get() {
        let resource = libc::RLIMIT_NOFILE;
        // SAFETY: the kernel reads one structure and writes none. To lower a limit of a child needs
        // no capability.
        unsafe { libc::prlimit(child.number(), resource, limit, std::ptr::null_mut()) };
    }
}

/// The values that this process inherited from containerd and has changed for itself: its children
/// get them, also after a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inherited {
    oom_score_adj: String,
    /// The soft and the hard limit on descriptors, if they were changed.
    descriptors: Option<(u64, u64)>,
}

impl Inherited {
    /// The values, for the next version of this executable.
    #[must_use]
    pub fn save() -> Inherited {
        Inherited {
            oom_score_adj: inherited_oom_score_adj().to_owned(),
            descriptors: DESCRIPTORS.get().map(|limit| (limit.rlim_cur, limit.rlim_max)),
        }
    }

    /// Gives children of this process the values of [`Inherited::save`]. Must be called before the
    /// first child is started.
    pub fn restore(self) {
        // This process has not read them before.
        let _ = INHERITED.set(self.oom_score_adj);
        if let Some((rlim_cur, rlim_max)) = self.descriptors {
            let _ = DESCRIPTORS.set(libc::rlimit { rlim_cur, rlim_max });
        }
    }
}

/// Ignores SIGHUP, SIGINT and SIGPIPE, which a terminal sends to a process group: containerd ends
/// the daemon with Shutdown.
#[allow(unsafe_code)]
pub fn ignore_terminal_signals() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE] {
        // SAFETY: SIG_IGN installs no handler. It cannot fail for these three signals.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// Writes a small file atomically: to a temporary name, which is then renamed.
///
/// # Errors
/// If the disk is full or the directory is not writable.
pub fn write_atomically(path: &Path, contents: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    File::create(&temporary)?.write_all(contents.as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// In another process: the limit is the whole process's.
    #[test]
    fn a_child_has_the_limit_on_descriptors_that_this_process_inherited() {
        let name =
            "daemon::tests::a_child_has_the_limit_on_descriptors_that_this_process_inherited";
        if !crate::alone(name) {
            return;
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        let mut shell = Command::new("sh");
        shell.args(["-c", "read line; ulimit -Sn; ulimit -Hn"]);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        restore_descriptor_limit(Pid::new(i32::try_from(child.id()).unwrap()).unwrap());
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("64\n{hard}\n"));
    }
}
