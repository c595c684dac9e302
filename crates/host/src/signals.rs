//! Signals of a guest's process.
//!
//! The kernel drops every signal to the first process of a pid namespace that has no handler for
//! it, and a wasm guest cannot install one. So the guest's process handles each signal whose
//! default action ends a process, before its program is loaded, and exits with 128+n, as a shell
//! reports it.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Signals that keep their default action: those that do not end a process, those that report a
/// fault (an engine handles them itself), and those that cannot be handled.
const NOT_HANDLED: &[i32] = &[
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGPIPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// The descriptor of [`forward_termination`], until it was used.
static TERMINATION: AtomicI32 = AtomicI32::new(-1);

extern "C" fn exit(signal: libc::c_int) {
    exit_now(128 + signal);
}

#[allow(unsafe_code)]
extern "C" fn forward(signal: libc::c_int) {
    let descriptor = TERMINATION.swap(-1, Ordering::Relaxed);
    if descriptor < 0 {
        exit_now(128 + signal);
    }
    let errno = nix::errno::Errno::last_raw();
    // SAFETY: one byte of a constant. Its descriptor stays open: nothing else owns it.
    unsafe { libc::write(descriptor, c"".as_ptr().cast(), 1) };
    nix::errno::Errno::set_raw(errno);
}

/// Exits at once, without running destructors or flushing buffers. Async-signal-safe.
#[allow(unsafe_code)]
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any value, and is async-signal-safe.
    unsafe { libc::_exit(status) }
}

/// Makes every signal whose default action ends a process end this one, with exit status 128+n.
pub fn handle_termination() {
    for signal in 1..=libc::SIGRTMAX() {
        // glibc uses 32 and 33 itself.
        if NOT_HANDLED.contains(&signal) || (32..libc::SIGRTMIN()).contains(&signal) {
            continue;
        }
        handle(signal, exit, 0);
    }
    unblock();
}

/// Makes the first SIGTERM or SIGINT write a byte to `descriptor`. The second one ends this
/// process, with exit status 128+n.
pub fn forward_termination(descriptor: OwnedFd) {
    TERMINATION.store(descriptor.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        handle(signal, forward, libc::SA_RESTART);
    }
}

#[allow(unsafe_code)]
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int), flags: libc::c_int) {
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // SA_ONSTACK: the guest's stack may be full.
    action.sa_flags = libc::SA_ONSTACK | flags;
    // SAFETY: both handlers call `write` and `_exit` alone, which are async-signal-safe.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Makes the kernel reap the children of this process: orphans of the container become children of
/// its first process, and a guest cannot wait for them.
#[allow(unsafe_code)]
pub fn reap_automatically() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN installs no handler. It cannot fail for SIGCHLD.
    let _ = unsafe { sigaction(Signal::SIGCHLD, &ignore) };
}

/// Restores the signal state that a native program expects: all default actions, none blocked.
#[allow(unsafe_code)]
pub fn restore_defaults() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // exec resets handled signals and keeps ignored ones: SIGPIPE, which Rust's start-up code
    // ignores.
    // SAFETY: SIG_DFL installs no handler. It cannot fail for SIGPIPE.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    unblock();
}

fn unblock() {
    // It cannot fail with a valid mask.
    let _ = SigSet::empty().thread_set_mask();
}

#[allow(unsafe_code)]
fn zeroed() -> libc::sigaction {
    // SAFETY: all zeroes is a valid sigaction: default action, empty mask, no flags.
    unsafe { std::mem::zeroed() }
}
