//! Reports a stack overflow of the guest.
//!
//! Compiled code uses the thread's stack without a check of its depth, so an overflow raises
//! SIGSEGV. WasmEdge installs its handler without SA_ONSTACK, so the kernel would kill the process
//! without a message. This module adds SA_ONSTACK, and records the fault's address to distinguish
//! an overflow from other faults.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmedge_sdk::error::{CoreError, CoreExecutionError, WasmEdgeError};

/// WasmEdge's own handler.
static HANDLER: AtomicUsize = AtomicUsize::new(0);
/// The address of the last fault.
static FAULT: AtomicUsize = AtomicUsize::new(0);

/// The largest distance below the stack's end at which a new frame is first touched.
const FRAME: usize = 1 << 20;

/// Returns the cause of a fault that WasmEdge reports wrongly: an overflow of the stack that ends
/// at `end`.
pub(crate) fn cause(error: &WasmEdgeError, end: Option<usize>) -> Option<String> {
    let WasmEdgeError::Core(CoreError::Execution(CoreExecutionError::MemoryOutOfBounds)) = error
    else {
        return None;
    };
    let (fault, end) = (FAULT.load(Ordering::Relaxed), end?);
    let overflow = (end.saturating_sub(FRAME)..end.saturating_add(FRAME)).contains(&fault);
    overflow.then(|| "call stack exhausted".to_owned())
}

/// Returns the lowest address of this thread's stack. The C library reads `/proc/self/maps`, which
/// the guard refuses once the guest runs.
#[allow(unsafe_code)]
pub(crate) fn end() -> Option<usize> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut end, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are written by the first call before they are read, and destroyed
    // once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let attributes = attributes.as_mut_ptr();
        libc::pthread_attr_getstack(attributes, &raw mut end, &raw mut size);
        libc::pthread_attr_destroy(attributes);
    }
    Some(end as usize)
}

#[allow(unsafe_code)]
mod interposed {
    use super::{FAULT, HANDLER, Ordering, c_int, c_void, ptr};

    // SAFETY: the C library's function under its internal name, which no library interposes.
    unsafe extern "C" {
        fn __sigaction(
            signal: c_int,
            new: *const libc::sigaction,
            old: *mut libc::sigaction,
        ) -> c_int;
    }

    /// Interposes the C library's function for this executable and the libraries that it loads.
    ///
    /// # Safety
    /// As for the C library's: the pointers are null or valid.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn sigaction(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
    ) -> c_int {
        // SAFETY: null or valid, by this function's contract.
        let given = unsafe { new.as_ref() };
        let changed = given.filter(|new| signal == libc::SIGSEGV && is_handler(new)).map(|new| {
            let mut changed = *new;
            changed.sa_flags |= libc::SA_ONSTACK;
            changed.sa_sigaction = own();
            changed
        });
        let before = match (given, &changed) {
            (Some(given), Some(_)) => HANDLER.swap(given.sa_sigaction, Ordering::Relaxed),
            _ => HANDLER.load(Ordering::Relaxed),
        };
        // SAFETY: as above.
        let result =
            unsafe { __sigaction(signal, changed.as_ref().map_or(new, ptr::from_ref), old) };
        // SAFETY: as above.
        if let Some(old) = unsafe { old.as_mut() }.filter(|old| old.sa_sigaction == own()) {
            // A caller that restores the old handler must restore WasmEdge's.
            old.sa_sigaction = before;
        }
        result
    }

    fn own() -> usize {
        record as *const () as usize
    }

    /// Returns true for a handler that receives the fault's address.
    fn is_handler(action: &libc::sigaction) -> bool {
        action.sa_flags & libc::SA_SIGINFO != 0 && action.sa_sigaction > libc::SIG_IGN
    }

    /// Records the address and calls WasmEdge's handler.
    unsafe extern "C" fn record(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes this structure, with an address for SIGSEGV.
        FAULT.store(unsafe { (*info).si_addr() } as usize, Ordering::Relaxed);
        let handler = HANDLER.load(Ordering::Relaxed);
        // SAFETY: `sigaction` received it as a handler with SA_SIGINFO.
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(handler) };
        // SAFETY: it gets the kernel's arguments unchanged.
        unsafe { handler(signal, info, context) }
    }
}
