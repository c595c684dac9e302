//! A guest's terminal: made inside the container, by libcontainer, which hands its other end out
//! through a socket.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Uid, fchown};
use oci_spec::runtime::Process;

use wherry_protocol::channel::receive_descriptor;
use wherry_protocol::{Failure, FailureKind};

/// The socket on which a terminal's other end arrives.
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    pub(crate) fn new(directory: &Path) -> Result<Console, Failure> {
        // Several hosts may make terminals for one container at the same time.
        let name = format!("console-{}.sock", std::process::id());
        let path = directory.join(&name);
        listen(directory, &path, &name)
            .map(|listener| Console { listener, path: path.clone() })
            .map_err(|error| failed(&path, &error))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Takes the end that has arrived: to be called when the guest's process is there.
    pub(crate) fn receive(self) -> Result<OwnedFd, Failure> {
        let received = self
            .listener
            .accept()
            .and_then(|(stream, _)| receive_descriptor(&OwnedFd::from(stream)));
        received.map_err(|error| failed(&self.path, &error))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Gives a terminal, of which this is the daemon's end, to the user `uid`, so that the guest may
/// open it anew.
#[allow(unsafe_code)]
pub(crate) fn give(console: &OwnedFd, uid: u32) {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes flags and makes a descriptor or fails.
    let number = unsafe { libc::ioctl(console.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if number < 0 {
        let error = io::Error::last_os_error();
        log::warn!("cannot give the terminal to user {uid}: {error}");
        return;
    }
    // SAFETY: the kernel has just made it for us.
    let terminal = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(errno) = fchown(&terminal, Some(Uid::from_raw(uid)), None) {
        log::warn!("cannot give the terminal to user {uid}: {errno}");
    }
}

/// Gives this process's terminal, which is its standard input, the size that was asked for.
pub(crate) fn resize(process: &Process) -> Result<(), String> {
    let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true)) else {
        return Ok(());
    };
    set_size(size.width(), size.height())
        .map_err(|error| format!("cannot set the terminal's size: {error}"))
}

#[allow(unsafe_code)]
fn set_size(columns: u64, rows: u64) -> io::Result<()> {
    let fit =
        |value: u64| u16::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let size =
        libc::winsize { ws_row: fit(rows)?, ws_col: fit(columns)?, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads one winsize where the pointer says.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result)?;
    Ok(())
}

fn listen(directory: &Path, path: &Path, name: &str) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The path is longer than the address of a socket may be.
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("no terminal through {}: {error}", path.display()))
}
