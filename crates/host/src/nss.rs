//! The name service switch (NSS) of the C library.

/// Restricts the C library's name lookups to files and DNS, which are built into it.
///
/// `/etc/nsswitch.conf` can name other services, which the C library loads as shared libraries.
/// Inside a container both come from the image: its native code would run in the guest's process.
/// Called before any fork, because a guest inherits it.
pub fn use_files_and_dns() {
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
    // SAFETY: the declaration of glibc's `nss.h`.
    unsafe extern "C" {
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            service: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: both are C strings, and this process has a single thread.
    if unsafe { __nss_configure_lookup(database.as_ptr(), service.as_ptr()) } != 0 {
        log::warn!("cannot configure the name service of {}", database.to_string_lossy());
    }
}
