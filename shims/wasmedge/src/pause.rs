//! A guest that is paused while it waits.
//!
//! When a frozen process goes on, its `epoll_wait` is interrupted. WasmEdge hands this on to the guest, and few programs
//! expect it of a sleep: no other system call of theirs tells of a pause.

use std::ffi::c_int;

/// Takes the C library's place for this executable and for the libraries that it loads: waits on.
///
/// Only without a limit of time, which would begin anew. WasmEdge has its timers among what it waits for.
///
/// # Safety
/// As for the C library's: there is room for `most` events.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    milliseconds: c_int,
) -> c_int {
    loop {
        // SAFETY: by this function's contract; no mask is the same as the call without one.
        let ready =
            unsafe { libc::epoll_pwait(epoll, events, most, milliseconds, std::ptr::null()) };
        let interrupted =
            ready < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
        // A signal that is to end the guest has done so in its handler.
        if !interrupted || milliseconds >= 0 {
            return ready;
        }
    }
}
