//! A guest that recurses too deeply.
//!
//! WasmEdge's code uses the thread's own stack and does not look how much of it is left. At its end a signal comes, whose
//! handler needs a stack too: WasmEdge does not ask for another, so that the kernel would end the process without a
//! word. Here this is asked for in its place, and the address is kept by which an overflow is told from other faults.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmedge_sdk::error::{CoreError, CoreExecutionError, WasmEdgeError};

/// WasmEdge's own handler.
static HANDLER: AtomicUsize = AtomicUsize::new(0);
/// Where the last fault was.
static FAULT: AtomicUsize = AtomicUsize::new(0);

/// A call's frame may lie this far below the end of the stack when it is first touched.
const FRAME: usize = 1 << 20;

/// Returns what a fault was, if it was not what WasmEdge takes it for. `end`: of the thread's stack.
pub(crate) fn cause(error: &WasmEdgeError, end: Option<usize>) -> Option<String> {
    let WasmEdgeError::Core(CoreError::Execution(CoreExecutionError::MemoryOutOfBounds)) = error
    else {
        return None;
    };
    let (fault, end) = (FAULT.load(Ordering::Relaxed), end?);
    let overflow = (end.saturating_sub(FRAME)..end.saturating_add(FRAME)).contains(&fault);
    overflow.then(|| "call stack exhausted".to_owned())
}

/// The lowest address of this thread's stack. The C library reads it from `/proc/self/maps`, which is closed once the guest runs.
#[allow(unsafe_code)]
pub(crate) fn end() -> Option<usize> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut end, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are written by the first call before they are read, and destroyed once.
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

    // SAFETY: the C library's own function under its other name, which nobody has put another in the place of.
    unsafe extern "C" {
        fn __sigaction(
            signal: c_int,
            new: *const libc::sigaction,
            old: *mut libc::sigaction,
        ) -> c_int;
    }

    /// Takes the C library's place for this executable and for the libraries that it loads.
    ///
    /// # Safety
    /// As for the C library's: the pointers are null or good.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn sigaction(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
    ) -> c_int {
        // SAFETY: null or good, by this function's contract.
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
            // Whoever puts it back must put back what was there.
            old.sa_sigaction = before;
        }
        result
    }

    fn own() -> usize {
        note as *const () as usize
    }

    /// Whether it has a handler of the kind that is told where the fault was.
    fn is_handler(action: &libc::sigaction) -> bool {
        action.sa_flags & libc::SA_SIGINFO != 0 && action.sa_sigaction > libc::SIG_IGN
    }

    /// Keeps the address and goes on to the handler that was asked for.
    unsafe extern "C" fn note(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's own, with an address for this signal.
        FAULT.store(unsafe { (*info).si_addr() } as usize, Ordering::Relaxed);
        let handler = HANDLER.load(Ordering::Relaxed);
        // SAFETY: `sigaction` was given it as a handler of this kind.
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(handler) };
        // SAFETY: it gets what it would have got.
        unsafe { handler(signal, info, context) }
    }
}
