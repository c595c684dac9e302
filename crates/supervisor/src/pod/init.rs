//! The init process of a pod: the first process of a shared pid namespace, or the one process in a
//! user namespace.
//!
//! It is this executable again, run from a read-only view, with the first argument [`POD_INIT`]. It
//! creates the namespaces, drops its privileges and its view of the filesystem, and waits for the
//! end of standard input, which the daemon keeps open: it ends with the daemon, too. The kernel
//! reaps the orphans that it inherits.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, chdir, dup2_stdout, getpid, pivot_root, setgroups, setresgid, setresuid, setsid,
};
use wherry_sys::namespaces;
use wherry_sys::process::{Pid, Process};
use wherry_sys::reaper::Reaper;
use wherry_sys::seccomp::{ALLOW, EPERM, Filter};

use super::namespaces::{EnterError, PodNamespaces};
use crate::program::Program;

/// The first argument of the daemon's executable for this process.
pub const POD_INIT: &str = "pod-init";

/// Its name among the processes of its containers.
const NAME: &CStr = c"wherry-pod";
/// The user and group of the process: those of the pause image of Kubernetes.
const UNPRIVILEGED: u32 = 65535;
/// The line of the answer that reports that the process is ready. The other line is its pid.
const READY: &str = "ready";
/// A directory that every root filesystem has, as the mount point of the empty root.
const MOUNT_POINT: &str = "/sys";
/// The allowed system calls: to wait, and to exit.
const CALLS: [i64; 7] = [
    libc::SYS_read,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_munmap,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// A running init process. It ends when this is dropped.
#[derive(Debug)]
pub struct InitProcess {
    process: Process,
    _end: PipeWriter,
}

impl InitProcess {
    pub(super) fn process(&self) -> &Process {
        &self.process
    }
}

/// Why the init process of a pod cannot run.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It cannot be executed.
    #[error("cannot execute {}: {source}", .path.display())]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path of this executable is unknown.
    #[error("cannot find this executable: {0}")]
    Own(io::Error),
    /// The answer of the init process cannot be read.
    #[error("cannot read its answer: {0}")]
    Read(#[from] io::Error),
    /// The init process reported an error.
    #[error("{0}")]
    Failed(String),
}

/// Starts the init process of a pod, as a child of this process.
pub(super) fn spawn(pod: &PodNamespaces, reaper: &Reaper) -> Result<InitProcess, InitError> {
    let program = Program::own().map_err(InitError::Own)?;
    let failed = |source| InitError::Spawn { path: program.path().to_owned(), source };
    let (input, end) = io::pipe()?;
    let (mut answer, output) = io::pipe()?;
    let mut command = program.command().map_err(failed)?;
    command.arg0("wherry-pod").arg(POD_INIT).args(to_args(pod)).current_dir("/").env_clear();
    command.stdin(input).stdout(output).stderr(Stdio::null());
    let child = command.spawn().map_err(failed)?;
    // Closes this process's writing end of the answer.
    drop(command);
    let mut text = String::new();
    answer.read_to_string(&mut text)?;
    let pid = parse(&text);
    let first = Pid::of(&child).number();
    if pid != Some(first) {
        // The process that forked the init process, or that failed: nothing waits for its exit.
        drop(reaper.exit_of(first));
    }
    match pid {
        Some(pid) => Ok(InitProcess { process: Process::new(pid), _end: end }),
        None => Err(InitError::Failed(text.trim().replace('\n', " "))),
    }
}

/// Returns the pid in the answer of an init process that is ready.
fn parse(answer: &str) -> Option<i32> {
    let (ready, mut rest): (Vec<&str>, Vec<&str>) = answer.lines().partition(|line| *line == READY);
    let pid = rest.pop()?.parse().ok()?;
    (ready.len() == 1 && rest.is_empty()).then_some(pid)
}

/// Encodes the namespaces as arguments.
fn to_args(pod: &PodNamespaces) -> Vec<String> {
    let flags = [(pod.ipc, 'i'), (pod.uts, 'u'), (pod.pid, 'p'), (pod.user, 'U')];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
    let network = pod.network.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut args = vec![flags, network, pod.hostname.clone().unwrap_or_default()];
    args.extend(pod.sysctls.iter().map(|(name, value)| format!("{name}={value}")));
    args
}

/// Decodes [`to_args`].
fn from_args(args: &[String]) -> Option<PodNamespaces> {
    let [flags, network, hostname, sysctls @ ..] = args else { return None };
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let sysctl = |text: &String| text.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    Some(PodNamespaces {
        network: given(network).map(PathBuf::from),
        ipc: flags.contains('i'),
        uts: flags.contains('u'),
        pid: flags.contains('p'),
        user: flags.contains('U'),
        hostname: given(hostname),
        sysctls: sysctls.iter().map(sysctl).collect::<Option<_>>()?,
    })
}

/// Why this process cannot be the init process of a pod.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("usage: pod-init FLAGS NETWORK HOSTNAME [SYSCTL=VALUE]...")]
    Usage,
    #[error(transparent)]
    Enter(#[from] EnterError),
    #[error("cannot leave the host's filesystem: {0}")]
    Root(nix::Error),
    #[error("cannot open /dev/null: {0}")]
    Null(io::Error),
    #[error("cannot duplicate standard input: {0}")]
    Input(io::Error),
    #[error("cannot fork: {0}")]
    Fork(io::Error),
    #[error("cannot give up privileges: {0}")]
    Privileges(nix::Error),
    #[error("cannot ignore SIGCHLD: {0}")]
    Children(io::Error),
    #[error("cannot install the seccomp filter: {0}")]
    Seccomp(io::Error),
}

/// The main function of the init process, or of the process that forks it.
#[must_use]
pub fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A daemon that has closed the pipe no longer wants the pod.
            let _ = io::stdout().write_all(error.to_string().as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), RunError> {
    let pod = from_args(args).ok_or(RunError::Usage)?;
    // After the last answer it replaces standard output. Later no file can be opened.
    let null = OpenOptions::new().write(true).open("/dev/null").map_err(RunError::Null)?;
    let mut end = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(RunError::Input)?);
    // A separate session. It fails only for a group's leader.
    let _ = setsid();
    pod.enter()?;
    if pod.pid {
        if let Some(pid) = namespaces::fork_sibling().map_err(RunError::Fork)? {
            answer(&pid.to_string());
            return Ok(());
        }
    } else {
        answer(&getpid().to_string());
    }
    leave_filesystem().map_err(RunError::Root)?;
    namespaces::reap_children_unseen().map_err(RunError::Children)?;
    drop_privileges().map_err(RunError::Privileges)?;
    prctl::set_name(NAME).map_err(RunError::Privileges)?;
    answer(READY);
    dup2_stdout(&null).map_err(|errno| RunError::Null(errno.into()))?;
    drop(null);
    let mut filter = Filter::new();
    CALLS.into_iter().for_each(|call| filter.call(call, ALLOW));
    filter.otherwise(EPERM);
    filter.install().map_err(RunError::Seccomp)?;
    // The end of the pipe is the expected error: nothing is ever written to it.
    let _ = end.read_exact(&mut [0]);
    Ok(())
}

/// Writes a line of the answer: one system call, so that the lines of two processes do not mix.
fn answer(line: &str) {
    // A daemon that has closed the pipe no longer wants the pod.
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Replaces the filesystem by an empty one: a container in the pid namespace may reach it through
/// `/proc/1/root`.
fn leave_filesystem() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("empty"), MOUNT_POINT, Some("tmpfs"), flags, Some("size=4k,mode=555"))?;
    chdir(MOUNT_POINT)?;
    // The old root goes below the new one, and is unmounted there: see pivot_root(2).
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// Becomes a user without capabilities, permanently.
fn drop_privileges() -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(UNPRIVILEGED), Gid::from_raw(UNPRIVILEGED));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_no_new_privs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_carry_every_field() {
        let full = PodNamespaces {
            network: Some("/run/netns/x".into()),
            ipc: true,
            uts: true,
            pid: true,
            user: true,
            hostname: Some("pod".to_owned()),
            sysctls: vec![("net.ipv4.ping_group_range".to_owned(), "0 1".to_owned())],
        };
        for pod in [full, PodNamespaces::default()] {
            assert_eq!(from_args(&to_args(&pod)), Some(pod));
        }
        assert_eq!(from_args(&["ip".to_owned()]), None);
    }

    #[test]
    fn the_lines_of_the_answer_come_in_any_order() {
        assert_eq!(parse("12\nready\n"), Some(12));
        assert_eq!(parse("ready\n12\n"), Some(12));
        for failed in ["", "12\n", "12\ncannot fork: x", "ready\n"] {
            assert_eq!(parse(failed), None, "{failed:?}");
        }
    }
}
