//! Memory of the daemon and of guests that the allocator would keep, or the stack.

/// Has all threads of this process allocate from one heap. Its threads are many, short-lived and mostly
/// wait: a heap for each would keep for ever what the busiest moment took.
#[allow(unsafe_code)]
pub fn share_one_heap() {
    // SAFETY: sets a number that the allocator reads when a thread first allocates.
    #[cfg(target_env = "gnu")]
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        log::warn!("the allocator does not take a number of heaps");
    }
}

/// Gives the heap's free pages back to the kernel: what it took to make a container is not needed while it runs.
#[allow(unsafe_code)]
pub fn give_back_heap() {
    // SAFETY: touches nothing that is allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back what of this thread's stack earlier calls went down to. Only for a process's first thread, below whose stack
/// the kernel leaves a gap.
#[allow(unsafe_code)]
pub(crate) fn give_back_stack() {
    /// More than any call before the guest's took.
    const DEEPEST: usize = 512 << 10;
    /// Below what this function and those that it calls take.
    const OURS: usize = 16 << 10;
    const PAGE: usize = 4096;
    let here = 0_u8;
    let end = (std::ptr::from_ref(&here).addr() - OURS) & !(PAGE - 1);
    // SAFETY: nothing lives below the stack pointer; pages that are not there are no fault.
    unsafe {
        libc::madvise((end - DEEPEST) as *mut libc::c_void, DEEPEST, libc::MADV_DONTNEED);
    }
}
