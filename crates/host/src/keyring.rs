//! The session keyring of a container: see session-keyring(7).

use std::ffi::CString;

/// From `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: i32 = 1;
const SETPERM: i32 = 5;
/// All for who possesses the keyring; view, read and search for its user, so that exec finds it by its name.
const PERMISSIONS: u32 = 0x3f0b_0000;

/// Joins the session keyring of the container `id`, which is made if it is not there. What this process forks inherits it, so
/// that no container has the keys of the service that started containerd, or of another container. As runc, by the same name.
#[allow(unsafe_code)]
pub(crate) fn join(id: &str) {
    let Ok(name) = CString::new(format!("_ses.{id}")) else { return };
    // SAFETY: the name is a C string.
    let keyring = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if keyring < 0 {
        let error = std::io::Error::last_os_error();
        // A kernel without keys has none to protect.
        if error.raw_os_error() != Some(libc::ENOSYS) {
            log::warn!("cannot join the session keyring of container {id}: {error}");
        }
        return;
    }
    // SAFETY: takes integers. Where it fails, exec makes another keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) };
}
