//! The system calls around namespaces that have no safe interface elsewhere.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// ioctl_nsfs(2): the user namespace that owns a namespace.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Opens the user namespace that owns `namespace`.
///
/// # Errors
/// If `namespace` is not a namespace, or its owner is not below this process's user namespace.
#[allow(unsafe_code)]
pub fn owner(namespace: &File) -> io::Result<OwnedFd> {
    // SAFETY: this request takes no argument and returns a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Forks a sibling: a child of this process's parent. Returns its pid, and None in the sibling.
///
/// # Errors
/// If the fork fails, or this process has more than one thread.
#[allow(unsafe_code)]
pub fn fork_sibling() -> io::Result<Option<i32>> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("cannot fork: the process has more than one thread"));
    }
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: this process has a single thread. Without CLONE_VM the sibling has a copy of all
    // memory, the stack included, as after fork(2).
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        0 => Ok(None),
        pid if pid > 0 => i32::try_from(pid).map(Some).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the kernel reap the children of this process. Their exit statuses are lost.
///
/// # Errors
/// If the kernel refuses.
#[allow(unsafe_code)]
pub fn reap_children_unseen() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN installs no handler.
    unsafe { sigaction(Signal::SIGCHLD, &ignore) }?;
    Ok(())
}
