//! Terminals and pipes: their sizes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Sets the size of a terminal, columns and rows. Its foreground processes get SIGWINCH.
///
/// # Errors
/// If a number is above 65,535, or `terminal` is not a terminal.
#[allow(unsafe_code)]
pub fn resize(terminal: &impl AsFd, columns: u64, rows: u64) -> io::Result<()> {
    let fit = |value: u64| {
        u16::try_from(value).map_err(|_| {
            let text =
                format!("invalid terminal size {columns}x{rows}: the maximum is 65535x65535");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    };
    let size =
        libc::winsize { ws_row: fit(rows)?, ws_col: fit(columns)?, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize at the pointer.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result)?;
    Ok(())
}

/// The number of unread bytes in a pipe.
///
/// # Errors
/// If `pipe` is not a pipe.
#[allow(unsafe_code)]
pub fn unread(pipe: &impl AsFd) -> io::Result<u32> {
    let mut count: u32 = 0;
    // SAFETY: the kernel writes one int, which is not negative, at the pointer.
    let result = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(result)?;
    Ok(count)
}
