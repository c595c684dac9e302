//! Hides a pause from a waiting guest.
//!
//! When a frozen process is thawed, `epoll_wait` fails with EINTR. WasmEdge returns that to the
//! guest, and few programs expect it from a sleep: other system calls restart after a pause.

use std::ffi::c_int;

/// Interposes the C library's function, for this executable and the libraries that it loads, to
/// restart after EINTR.
///
/// Only a wait without a timeout restarts, because a timeout would start again in full. WasmEdge
/// waits for timer descriptors instead of passing a timeout.
///
/// # Safety
/// As for the C library's: `events` has room for `most` events.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    milliseconds: c_int,
) -> c_int {
    loop {
        // SAFETY: by this function's contract; a null mask makes it the same as epoll_wait.
        let ready =
            unsafe { libc::epoll_pwait(epoll, events, most, milliseconds, std::ptr::null()) };
        let interrupted =
            ready < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
        // The handler of a terminating signal has already ended the process.
        if !interrupted || milliseconds >= 0 {
            return ready;
        }
    }
}
