//! What signals do to a guest.
//!
//! The first process of a pid namespace ignores every signal for which it has no handler, and a
//! wasm guest cannot have one. So the guest's process handles, from before the engine is loaded,
//! each signal whose default is to end a process, and ends with 128+n as a shell reports it.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Signals that keep their default: those that do not end a process, those that report a fault
/// (an engine handles them itself), and those that cannot be handled.
const LEFT_ALONE: &[i32] = &[
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

extern "C" fn end(signal: libc::c_int) {
    exit_now(128 + signal);
}

/// Ends the process at once: no destructors, no buffers. Safe in a signal handler.
#[allow(unsafe_code)]
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any value and may be called anywhere, signal handlers included.
    unsafe { libc::_exit(status) }
}

/// Makes every signal that asks a process to end do so, with 128+n.
#[allow(unsafe_code)]
pub fn end_on_request() {
    for signal in 1..=libc::SIGRTMAX() {
        // glibc keeps 32 and 33 for itself.
        if LEFT_ALONE.contains(&signal) || (32..libc::SIGRTMIN()).contains(&signal) {
            continue;
        }
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = end as *const () as libc::sighandler_t;
        // SA_ONSTACK: the guest's own stack may be full, and engines run on stacks of their own.
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: the handler calls `_exit` alone, which is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
    unblock();
}

/// Has the kernel collect every child that ends: those of others become the first process's, and a guest cannot
/// wait for them.
#[allow(unsafe_code)]
pub fn leave_no_zombies() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring needs no handler.
    let _ = unsafe { sigaction(Signal::SIGCHLD, &ignore) };
}

/// Brings back what a native program expects to find: every signal at its default, none blocked.
#[allow(unsafe_code)]
pub fn restore_defaults() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // exec resets handled signals; SIGPIPE was ignored by Rust's start-up code, which it keeps.
    // SAFETY: the default action needs no handler.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    unblock();
}

fn unblock() {
    let _ = SigSet::empty().thread_set_mask();
}

#[allow(unsafe_code)]
fn zeroed() -> libc::sigaction {
    // SAFETY: all zeroes is a valid sigaction: default action, empty mask, no flags.
    unsafe { std::mem::zeroed() }
}
