//! The socket that a daemon serves on: its name in a directory, which starts and deletes of other containers look at
//! and replace at the same time.
//!
//! A name is looked at, removed and bound under a lock on its directory. A name that has a dead socket is removed only if
//! it still names that very socket, and a daemon removes its own alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// How long a process takes at the most from its fork to its program.
const LAST_HOLDER: Duration = Duration::from_millis(500);

/// What came of asking for a socket.
#[derive(Debug)]
pub enum Listen {
    /// It is ours: no daemon served there.
    Bound(UnixListener, SocketName),
    /// A daemon serves there already.
    Served,
}

/// The name of a socket, as long as it names this socket and no other.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    /// Device and inode. They are not another socket's for as long as this one is open.
    file: (u64, u64),
}

/// Binds `path`, with mode 0600 whatever the umask. A socket that a dead daemon left there is replaced.
///
/// # Errors
/// When the directory or the socket cannot be made.
pub fn serve_at(path: &Path) -> io::Result<Listen> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    let _lock = lock(directory)?;
    let bound = match bind_at(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_served(path)? {
                return Ok(Listen::Served);
            }
            remove_if_there(path)?;
            bind_at(path)
        }
        other => other,
    };
    let listener = bound?;
    let name = SocketName { path: path.to_owned(), file: identity(path)? };
    Ok(Listen::Bound(listener, name))
}

impl SocketName {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless the name is another socket's by now. The socket itself must still be open.
    pub fn remove(&self) {
        if let Err(error) = remove_only(&self.path, self.file) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the socket at `path` unless a daemon serves there.
pub fn remove_dead_socket(path: &Path) {
    // An inode that is open keeps its number.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return };
    let Ok(meta) = file.metadata() else { return };
    let dead = match UnixStream::connect(path) {
        Err(_) => true,
        // A child of a dead daemon has the socket open until it executes its program, and nothing
        // accepts: the connection ends with it. A daemon that lives says nothing.
        Ok(mut stream) => {
            let _ = stream.set_read_timeout(Some(LAST_HOLDER));
            match stream.read(&mut [0]) {
                Ok(length) => length == 0,
                Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    };
    if dead && let Err(error) = remove_only(path, (meta.dev(), meta.ino())) {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Removes the name if it is that of this file.
fn remove_only(path: &Path, file: (u64, u64)) -> io::Result<()> {
    let _lock = lock(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    match identity(path) {
        Ok(found) if found == file => remove_if_there(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Locks the directory until the result is dropped. It is held for a few system calls, none of which waits.
fn lock(directory: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    directory.lock()?;
    Ok(directory)
}

/// Binds and listens. In between, a connection is refused as by a dead socket: only the lock hides that.
fn bind_at(path: &Path) -> io::Result<UnixListener> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file that bind makes has the mode of the socket, less the umask.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// Whether a daemon has the socket open. It does not wait for one that has its backlog full.
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

    /// In a process of its own: a child that another test has forked holds the dead socket open.
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
                        // Some clean up after the dead daemon meanwhile. They take their time where one lives.
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
        // This process's umask is that of other tests, too: a thread that unshares its own has none.
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
        // There is no name any more.
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
}
