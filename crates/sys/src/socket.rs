//! The socket of a daemon, and its path, which the `start` and `delete` of other containers check
//! and replace concurrently.
//!
//! A path is checked, removed and bound under a lock on its directory. The path of a dead socket is
//! removed only if it still names that socket, and a daemon removes only its own path.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use serde::{Deserialize, Serialize};

/// The maximum time between a fork and the exec of the child, which has the socket open until then.
const EXEC_MAX: Duration = Duration::from_millis(500);

/// The result of [`serve_at`].
#[derive(Debug)]
pub enum Listen {
    /// The socket is bound: no daemon served there.
    Bound(UnixListener, SocketName),
    /// A daemon already serves there.
    Served,
}

/// The path of a socket, and the identity of the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SocketName {
    path: PathBuf,
    /// Device and inode. No other socket has them while this one is open.
    file: (u64, u64),
}

/// Binds `path`, with mode 0600 for every umask. Replaces the socket of a dead daemon.
///
/// # Errors
/// If the directory or the socket cannot be created.
pub fn serve_at(path: &Path) -> io::Result<Listen> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    let _lock = lock(directory)?;
    let bound = match bind_at(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_served(path)? {
                return Ok(Listen::Served);
            }
            remove_if_exists(path)?;
            bind_at(path)
        }
        other => other,
    };
    let listener = bound?;
    let name = SocketName { path: path.to_owned(), file: identity(path)? };
    Ok(Listen::Bound(listener, name))
}

impl SocketName {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the path, unless a connection waits at `listener`, the socket. [`serve_at`] connects
    /// under the same lock: a caller that found the socket served is noticed here, and later
    /// callers bind a new socket. Returns false if a connection waits or the path stays.
    #[must_use]
    pub fn remove_unless_called(&self, listener: &UnixListener) -> bool {
        let removed = || {
            let _lock = lock(self.path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO)? != 0 {
                return Ok(false);
            }
            remove_locked(&self.path, self.file).map(|()| true)
        };
        removed().unwrap_or_else(|error: io::Error| {
            log::warn!("cannot remove {}: {error}", self.path.display());
            false
        })
    }

    /// Removes the path, unless it names another socket by now. The socket must still be open. Logs
    /// a warning if that fails.
    pub fn remove(&self) {
        if let Err(error) = remove_if_same(&self.path, self.file) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Whether a daemon serves at `path`, and has not removed it since: as [`serve_at`], without
/// binding it.
///
/// # Errors
/// If the directory cannot be locked, or the socket not connected to.
pub fn is_served_at(path: &Path) -> io::Result<bool> {
    match lock(path.parent().ok_or(io::ErrorKind::InvalidInput)?) {
        Ok(_lock) => is_served(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the socket at `path` unless a daemon serves there.
pub fn remove_dead_socket(path: &Path) {
    // Open, so that no other file gets the inode.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return };
    let Ok(meta) = file.metadata() else { return };
    if let Ok(mut stream) = UnixStream::connect(path) {
        // A child of a dead daemon has the socket open until its exec, and accepts nothing: the
        // connection ends with it. A daemon that lives sends nothing. Fails only for a duration of
        // zero.
        let _ = stream.set_read_timeout(Some(EXEC_MAX));
        let ended = match stream.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        if !ended {
            return;
        }
    }
    if let Err(error) = remove_if_dead(path, (meta.dev(), meta.ino())) {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Removes the path if it names this socket and no process has the socket open. Decided under the
/// lock: a new daemon's socket refuses connections too, between its bind and its listen.
fn remove_if_dead(path: &Path, file: (u64, u64)) -> io::Result<()> {
    let _lock = lock(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    if is_served(path)? { Ok(()) } else { remove_locked(path, file) }
}

/// Removes the path if it names this file.
fn remove_if_same(path: &Path, file: (u64, u64)) -> io::Result<()> {
    let _lock = lock(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    remove_locked(path, file)
}

/// As [`remove_if_same`], under the lock.
fn remove_locked(path: &Path, file: (u64, u64)) -> io::Result<()> {
    match identity(path) {
        Ok(found) if found == file => remove_if_exists(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Locks the directory until the result is dropped: for a few system calls, none of which blocks.
fn lock(directory: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    directory.lock()?;
    Ok(directory)
}

/// Binds and listens. Between the two calls the socket refuses connections as a dead one does; the
/// lock keeps other processes from checking it then.
fn bind_at(path: &Path) -> io::Result<UnixListener> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file that bind creates has the mode of the socket, less the umask.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// Whether a daemon has the socket open. Does not wait for one with a full backlog.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::thread;

    fn bound(path: &Path) -> (UnixListener, SocketName) {
        match serve_at(path).unwrap() {
            Listen::Bound(listener, name) => (listener, name),
            Listen::Served => panic!("{} is served", path.display()),
        }
    }

    #[test]
    fn a_daemon_that_was_just_called_keeps_its_socket_and_another_takes_its_place_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, name) = bound(&path);
        assert!(is_served_at(&path).unwrap());
        assert!(!name.remove_unless_called(&listener) && path.exists());
        drop(listener.accept().unwrap());
        assert!(matches!(serve_at(&path).unwrap(), Listen::Served));
        assert!(!name.remove_unless_called(&listener) && path.exists());
        drop(listener.accept().unwrap());
        assert!(name.remove_unless_called(&listener) && !path.exists());
        let (_next, _name) = bound(&path);
        assert!(name.remove_unless_called(&listener), "it has no path any more");
        assert!(path.exists(), "the path is that of another daemon");
    }

    /// In another process: a child that another test has forked would hold the dead socket open.
    #[test]
    fn one_of_many_takes_the_place_of_a_dead_socket_and_stays_reachable() {
        if !crate::alone(
            "socket::tests::one_of_many_takes_the_place_of_a_dead_socket_and_stays_reachable",
        ) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for round in 0..200 {
            drop(bound(&path).0);
            let barrier = Barrier::new(8);
            let results: Vec<_> = thread::scope(|scope| {
                let one = |number: usize| {
                    let (path, barrier) = (&path, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        // Some threads clean up after the dead daemon meanwhile; for a live one
                        // they wait half a second.
                        if number >= 6 && round % 40 == 0 {
                            remove_dead_socket(path);
                            return None;
                        }
                        Some(serve_at(path).unwrap())
                    })
                };
                let threads: Vec<_> = (0..8).map(one).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            let bound = results.iter().filter(|result| matches!(result, Listen::Bound(..)));
            assert_eq!(bound.count(), 1, "in round {round}");
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_socket_is_the_owners_alone_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        // The umask is shared with other tests, except in a thread that unshares it.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                nix::sys::stat::umask(Mode::empty());
                bound(&path)
            });
            let _socket = thread.join().unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        });
    }

    #[test]
    fn a_name_is_removed_by_its_own_socket_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (old, name) = bound(&path);
        fs::remove_file(&path).unwrap();
        let (_new, other) = bound(&path);
        name.remove();
        UnixStream::connect(&path).unwrap();
        drop(old);
        other.remove();
        assert!(!path.exists());
        // The path does not exist any more.
        other.remove();
    }

    #[test]
    fn a_socket_that_answers_is_served_also_when_its_backlog_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, _name) = bound(&path);
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        assert!(matches!(serve_at(&path).unwrap(), Listen::Served));
        drop(waiting);
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(serve_at(&directory.path().join("s".repeat(108))).is_err());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_replaced_as_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("s");
        let _socket = bound(&path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let _other = bound(&path);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_does_not_listen_yet_is_not_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let locked = lock(directory.path()).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        thread::scope(|scope| {
            let cleanup = scope.spawn(|| remove_dead_socket(&path));
            // Time for a connection that is refused; it may as well come later.
            thread::sleep(Duration::from_millis(20));
            listen(&socket, Backlog::MAXALLOWABLE).unwrap();
            drop(locked);
            cleanup.join().unwrap();
        });
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_path_that_does_not_exist_needs_no_removal() {
        let directory = tempfile::tempdir().unwrap();
        remove_dead_socket(&directory.path().join("s"));
        remove_dead_socket(Path::new("/no/such/directory/s"));
        assert!(!is_served_at(&directory.path().join("s")).unwrap());
        assert!(!is_served_at(Path::new("/no/such/directory/s")).unwrap());
    }
}
