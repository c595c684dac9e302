//! Returns memory to the kernel that the allocator or the stack would otherwise keep.

/// Makes all threads of this process allocate from one heap. A daemon's threads are short-lived and
/// mostly wait; a heap per thread would never shrink again.
#[allow(unsafe_code)]
pub fn share_one_heap() {
    // SAFETY: sets a limit that the allocator reads when a thread first allocates.
    #[cfg(target_env = "gnu")]
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        log::warn!("mallopt(M_ARENA_MAX) failed: each thread has a separate heap");
    }
}

/// Returns the heap's free pages to the kernel.
#[allow(unsafe_code)]
pub fn trim_heap() {
    // SAFETY: allocated memory stays as it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the stack pages that earlier, deeper calls have touched. Only for the main thread, below
/// whose stack the kernel leaves a gap.
#[allow(unsafe_code)]
pub fn trim_stack() {
    /// More than any call before the guest's has used of the stack, bytes.
    const DEEPEST: usize = 512 << 10;
    /// More than this function and its callees use of the stack, bytes.
    const OURS: usize = 16 << 10;
    const PAGE: usize = 4096;
    let here = 0_u8;
    let end = (std::ptr::from_ref(&here).addr() - OURS) & !(PAGE - 1);
    // SAFETY: nothing below the stack pointer is in use; unmapped pages cause an error, no fault.
    unsafe {
        libc::madvise((end - DEEPEST) as *mut libc::c_void, DEEPEST, libc::MADV_DONTNEED);
    }
}
