//! The session keyring of a container: see session-keyring(7).

use std::ffi::CString;

/// From `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: i32 = 1;
const SETPERM: i32 = 5;
/// All permissions for a possessor of the keyring; view, read and search for its user, so that exec
/// finds it by name.
const PERMISSIONS: u32 = 0x3f0b_0000;

/// Joins the session keyring of container `id`, which is created if it does not exist. The
/// processes that this one forks inherit it, so that no container has the keys of the service that
/// started containerd, or of another container. The name is runc's.
#[allow(unsafe_code)]
pub(crate) fn join(id: &str) {
    // No container id contains a NUL byte.
    let Ok(name) = CString::new(format!("_ses.{id}")) else { return };
    // SAFETY: the name is a C string.
    let keyring = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if keyring < 0 {
        let error = std::io::Error::last_os_error();
        // A kernel without keyrings reports ENOSYS: it has no keys to protect.
        if error.raw_os_error() != Some(libc::ENOSYS) {
            log::warn!("cannot join the session keyring of container {id}: {error}");
        }
        return;
    }
    // SAFETY: takes integers. If it fails, exec creates another keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) };
}
