//! How the C library looks names up.

/// Makes the C library look names up in files and by DNS alone, which is built into it.
///
/// What else there is, `/etc/nsswitch.conf` says, and the C library loads it as a library. Inside a container both come
/// from the image, and a stranger's native code would run in the guest's process, which is to run wasm and nothing else.
/// Before any fork: a guest inherits it.
pub(super) fn look_up_without_libraries() {
    #[cfg(target_env = "gnu")]
    {
        configure(c"hosts", c"files dns");
        for database in [
            c"aliases",
            c"ethers",
            c"group",
            c"gshadow",
            c"initgroups",
            c"netgroup",
            c"networks",
            c"passwd",
            c"protocols",
            c"rpc",
            c"services",
            c"shadow",
        ] {
            configure(database, c"files");
        }
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn configure(database: &std::ffi::CStr, service: &std::ffi::CStr) {
    // SAFETY: as glibc's `nss.h` has it.
    unsafe extern "C" {
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            service: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: both are C strings, and this process has a single thread.
    if unsafe { __nss_configure_lookup(database.as_ptr(), service.as_ptr()) } != 0 {
        log::warn!("cannot tell the C library how to look up {}", database.to_string_lossy());
    }
}
