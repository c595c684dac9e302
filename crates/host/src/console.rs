//! The terminal of a process: libcontainer opens it inside the container, and sends its master end
//! over a socket.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Uid, fchown};
use oci_spec::runtime::Process;
use wherry_protocol::channel::receive_descriptor;

use crate::adopt;

/// Why a process has no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("cannot listen for the terminal on {}: {source}", .path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot receive the terminal from {}: {source}", .path.display())]
    Receive { path: PathBuf, source: io::Error },
}

/// The socket on which the master end of a terminal arrives. Removed when dropped.
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Creates the socket in `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Console, ConsoleError> {
        // Several hosts may open terminals for one container at the same time.
        let name = format!("console-{}.sock", std::process::id());
        let path = directory.join(&name);
        match listen(directory, &path, &name) {
            Ok(listener) => Ok(Console { listener, path }),
            Err(source) => Err(ConsoleError::Listen { path, source }),
        }
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Receives the master end. To be called once the process exists: the socket blocks.
    pub(crate) fn receive(self) -> Result<OwnedFd, ConsoleError> {
        let received = self
            .listener
            .accept()
            .and_then(|(stream, _)| receive_descriptor(&OwnedFd::from(stream)));
        received.map_err(|source| ConsoleError::Receive { path: self.path.clone(), source })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // If this fails, the file is removed with the bundle.
        let _ = fs::remove_file(&self.path);
    }
}

/// Changes the owner of a terminal, given its master end, to the user `uid`, so that the guest may
/// open `/dev/tty` and `/dev/stdout`. Logs a warning if that fails.
#[allow(unsafe_code)]
pub(crate) fn change_owner(master: &OwnedFd, uid: u32) {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes flags; returns a descriptor or an error.
    let number = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let changed = Errno::result(number)
        .and_then(|number| fchown(adopt(number), Some(Uid::from_raw(uid)), None));
    if let Err(errno) = changed {
        log::warn!("cannot change the owner of the terminal to user {uid}: {errno}");
    }
}

/// Sets the size of this process's terminal, which is its standard input, to the configured one.
pub(crate) fn resize(process: &Process) -> io::Result<()> {
    match process.console_size().filter(|_| process.terminal() == Some(true)) {
        Some(size) => set_size(size.width(), size.height()),
        None => Ok(()),
    }
}

#[allow(unsafe_code)]
fn set_size(columns: u64, rows: u64) -> io::Result<()> {
    let fit =
        |value: u64| u16::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let size =
        libc::winsize { ws_row: fit(rows)?, ws_col: fit(columns)?, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads one winsize from the pointer.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result)?;
    Ok(())
}

fn listen(directory: &Path, path: &Path, name: &str) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A socket's address holds 108 bytes, fewer than the path may have.
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}
