//! Extended attributes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

/// Whether a file has the attribute `name`. False on a filesystem without extended attributes.
///
/// # Errors
/// If the attribute cannot be read.
#[allow(unsafe_code)]
pub fn has(file: &File, name: &CStr) -> io::Result<bool> {
    // SAFETY: the name ends in NUL; with a length of 0 nothing is written.
    let result =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
