//! The confinement of the process that compiles.
//!
//! - As root's child it runs as a user that no other process has, in new namespaces for pids,
//!   mounts, network and IPC, with an empty tmpfs as its root. For any other user only the limits
//!   and the filter of system calls apply.
//! - Memory, CPU time, output and the number of threads are bounded, system calls are few
//!   ([`crate::filter`]).
//! - All other work of the machine takes precedence, and out of memory the kernel kills it first.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};
use wherry_protocol::compile::{Bounds, EXIT_IO};
use wherry_sys::daemon::OOM_SCORE_ADJ;

use crate::filter;

/// The uid of the first slot's compiler; the number of the slot is added. No other process has one
/// of these uids, so a limit on a user's processes counts those of one compiler, and a compiler can
/// signal no other process.
pub(crate) const FIRST_USER: u32 = 0xffff_0000;
/// A directory that every machine has, as the mount point of the compiler's root.
const ROOT: &str = "/proc";

/// Threads and processes of a compiler besides two threads for each processor.
const THREADS: u64 = 16;
/// The niceness of a compilation. Most processes of containers have 0.
const NICENESS: i32 = 10;

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error("cannot limit the compiler's {what}: {source}")]
    Limit { what: &'static str, source: io::Error },
    #[error("cannot fork the compiler: the engine has started {0} threads")]
    Threads(usize),
    #[error("cannot confine the compiler: {call}: {source}")]
    Call { call: &'static str, source: io::Error },
    #[error("the process that requested the code has ended")]
    Abandoned,
    #[error("cannot install the compiler's seccomp filter: {0}")]
    Filter(io::Error),
}

/// Makes an error of a call.
fn failed<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> ConfineError {
    move |error| ConfineError::Call { call, source: error.into() }
}

/// The process after [`confine`].
pub(crate) enum Side {
    /// The process that compiles.
    Inside,
    /// The process that waits for it.
    Outside(Pid),
}

/// Drops the privileges and resources that a compiler does not need. As root it forks: the child
/// compiles in the new pid namespace, and this process waits.
pub(crate) fn confine(bounds: Bounds, slot: u32) -> Result<Side, ConfineError> {
    // A signal to the daemon's process group must not reach the compiler. Fails for a group leader,
    // which is in another group already.
    let _ = nix::unistd::setsid();
    // A process may always raise its own score. Without procfs the score stays.
    let _ = fs::write(OOM_SCORE_ADJ, "1000");
    lower_priority();
    // RLIMIT_DATA, not RLIMIT_AS: allocators reserve address space for each thread that they never
    // touch.
    limit("memory", Resource::RLIMIT_DATA, bounds.memory, bounds.memory)?;
    // The soft limit sends SIGXCPU, by which the daemon knows the cause.
    let seconds = bounds.seconds;
    limit("CPU time", Resource::RLIMIT_CPU, seconds, seconds.saturating_add(5))?;
    limit("output", Resource::RLIMIT_FSIZE, bounds.code, bounds.code)?;
    limit("core dump", Resource::RLIMIT_CORE, 0, 0)?;
    let root = Uid::effective().is_root();
    if root {
        drop_root(bounds.memory, slot)?;
    }
    prctl::set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    end_with_parent()?;
    if root && let Some(child) = fork_into_namespace()? {
        return Ok(Side::Outside(child));
    }
    filter::install().map_err(ConfineError::Filter)?;
    Ok(Side::Inside)
}

/// Enters new namespaces, and becomes the user of the slot.
fn drop_root(memory: u64, slot: u32) -> Result<(), ConfineError> {
    require_one_thread()?;
    let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let threads = processors.saturating_mul(2).saturating_add(THREADS);
    limit("threads", Resource::RLIMIT_NPROC, threads, threads)?;
    leave_network().map_err(failed("unshare(CLONE_NEWNET | CLONE_NEWIPC)"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed("unshare(CLONE_NEWPID)"))?;
    enter_empty_root(memory).map_err(failed("chroot"))?;
    nix::unistd::setgroups(&[]).map_err(failed("setgroups"))?;
    let user = FIRST_USER.saturating_add(slot);
    let (gid, uid) = (Gid::from_raw(user), Uid::from_raw(user));
    nix::unistd::setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed("setresuid"))
}

fn limit(what: &'static str, resource: Resource, soft: u64, hard: u64) -> Result<(), ConfineError> {
    setrlimit(resource, soft, hard)
        .map_err(|errno| ConfineError::Limit { what, source: errno.into() })
}

/// Makes the kernel kill this process when its parent ends, whose thread waits for the code. To be
/// called after the change of user, which resets this.
fn end_with_parent() -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;
    // The parent may have ended before that: then the other end of standard error is closed.
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).map_err(failed("poll"))?;
    match fds.first().and_then(PollFd::revents) {
        Some(events) if events.contains(PollFlags::POLLERR) => Err(ConfineError::Abandoned),
        _ => Ok(()),
    }
}

/// Returns an error if this process has more than one thread: after a fork the locks of the others
/// would stay held in the child.
fn require_one_thread() -> Result<(), ConfineError> {
    match fs::read_dir("/proc/self/task").map_err(failed("read /proc/self/task"))?.count() {
        1 => Ok(()),
        threads => Err(ConfineError::Threads(threads)),
    }
}

/// Forks the first process of the new pid namespace. Returns its pid, or None in that process.
#[allow(unsafe_code)]
fn fork_into_namespace() -> Result<Option<Pid>, ConfineError> {
    // SAFETY: this process has a single thread: see `require_one_thread`.
    if let ForkResult::Parent { child } = unsafe { fork() }.map_err(failed("fork"))? {
        return Ok(Some(child));
    }
    end_with_parent()?;
    // The kernel drops every signal to the first process of a pid namespace that has no handler for
    // it, except SIGKILL.
    let handler = SigAction::new(SigHandler::Handler(exit), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGABRT, Signal::SIGXCPU, Signal::SIGXFSZ, Signal::SIGTERM] {
        // SAFETY: the handler calls `_exit` alone, which is async-signal-safe.
        unsafe { sigaction(signal, &handler) }.map_err(failed("sigaction"))?;
    }
    Ok(None)
}

/// Exits with the status that a shell reports for a process killed by `signal`.
#[allow(unsafe_code)]
extern "C" fn exit(signal: libc::c_int) {
    // SAFETY: `_exit` takes any value, and is async-signal-safe.
    unsafe { libc::_exit(128 + signal) }
}

/// Waits for the process that compiles, and returns its exit status.
pub(crate) fn wait(child: Pid) -> ExitCode {
    let status = loop {
        match waitpid(child, None) {
            // One byte each: an exit status, and at most 128 + 64.
            Ok(WaitStatus::Exited(_, code)) => break code.to_le_bytes()[0],
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + (signal as i32).to_le_bytes()[0],
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break EXIT_IO,
        }
    };
    ExitCode::from(status)
}

/// Drops to SCHED_IDLE, for a compilation that no start waits for, and starts a session: the
/// process outlives the daemon that started it.
#[allow(unsafe_code)]
pub fn yield_to_all() {
    let idle = libc::sched_param { sched_priority: 0 };
    // Fails for a group leader, which needs no session.
    let _ = nix::unistd::setsid();
    // SAFETY: integers, and one structure that the kernel reads. If the kernel refuses, the
    // compilation competes with other work.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle);
    }
}

/// Lowers the priority of this process below that of containers. A background compilation, in
/// SCHED_IDLE already, stays there.
#[allow(unsafe_code)]
fn lower_priority() {
    let batch = libc::sched_param { sched_priority: 0 };
    // SAFETY: integers, and one structure that the kernel reads. If the kernel refuses, the
    // compilation has the priority of other work.
    unsafe {
        if libc::sched_getscheduler(0) != libc::SCHED_IDLE {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
            libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch);
        }
    }
}

/// Enters an empty tmpfs of at most `bytes` as the root. Input and output are open already; some
/// compilers create temporary files, in `/tmp`.
fn enter_empty_root(bytes: u64) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = format!("mode=0755,size={bytes}");
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), flags, Some(options.as_str()))?;
    nix::unistd::chroot(ROOT)?;
    nix::unistd::chdir("/")?;
    let temporary = std::env::temp_dir();
    DirBuilder::new().recursive(true).create(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777))
}

/// Enters namespaces without network interfaces and shared memory. A kernel built without such
/// namespaces reports EINVAL; the seccomp filter still refuses sockets there.
fn leave_network() -> nix::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}
