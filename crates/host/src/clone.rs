//! Forks by clone3(2): as a sibling, a child of this process's parent.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A flag of clone3(2). libc's constant has a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), since Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks a sibling, in a cgroup of version 2 if one is given. Returns its pid, or None in the
/// sibling. This process must have a single thread.
///
/// # Errors
/// If the kernel refuses: at a limit on pids, without memory.
#[allow(unsafe_code)]
pub(crate) fn sibling(cgroup: Option<&File>) -> io::Result<Option<i32>> {
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let mut args = CloneArgs {
        flags: into | libc::CLONE_PARENT as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: the arguments have the given size and ask for a fork. This process has a single
    // thread.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) } {
        0 => Ok(None),
        pid if pid > 0 => i32::try_from(pid).map(Some).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}
