//! Output to a file (`file://`).
//!
//! The guest gets a pipe, and a thread of the daemon appends to the file. With the file itself the
//! guest could read or truncate it, or make it executable on the host.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};

use crate::thread::NoThread;

/// The size of a copy, bytes: the capacity of a pipe.
const CHUNK: usize = 64 << 10;

/// Why output cannot be written to a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogFileError {
    /// A relative path would be relative to the daemon's directory.
    #[error("the path is not absolute")]
    Relative,
    /// Anything but a regular file could block the daemon's thread.
    #[error("it is not a regular file")]
    NotRegular,
    /// It cannot be opened or created.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel refuses a thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
}

/// Starts to append to the file at `path`, and returns the pipe to write to. `create`: a missing
/// file is created with mode 0644 less the umask, as by containerd's shim for runc.
///
/// # Errors
/// If the file cannot be opened, or is not a regular one.
pub(crate) fn append(path: &Path, create: bool) -> Result<(PipeWriter, LogFile), LogFileError> {
    if !path.is_absolute() {
        return Err(LogFileError::Relative);
    }
    let mut options = OpenOptions::new();
    // O_NONBLOCK: without it the open of a named pipe waits for a reader.
    options.append(true).create(create).mode(0o644).custom_flags(libc::O_NONBLOCK);
    let file = match options.open(path) {
        // A named pipe without a reader, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(LogFileError::NotRegular);
        }
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(LogFileError::NotRegular);
    }
    let (reader, writer) = io::pipe()?;
    Ok((writer, LogFile::start(path.to_owned(), reader, file)?))
}

/// A copy from a pipe to a file, which a thread does.
#[derive(Debug)]
pub(crate) struct LogFile {
    copy: Arc<Copy>,
    /// None once everything was copied.
    copied: Option<oneshot::Receiver<()>>,
}

/// A copy in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLogFile {
    path: PathBuf,
    pipe: Descriptor,
    file: Descriptor,
}

#[derive(Debug)]
struct Copy {
    path: PathBuf,
    pipe: PipeReader,
    file: File,
    /// Whether the thread waits. Locked from each read to the end of the write: while this is
    /// true, the thread holds no bytes.
    suspended: Mutex<bool>,
    resumed: Condvar,
}

/// How long the writer of a file may take before the copy is asked again whether it is suspended.
const SUSPEND_PAUSE: Duration = Duration::from_millis(1);

impl LogFile {
    fn start(path: PathBuf, pipe: PipeReader, file: File) -> Result<LogFile, NoThread> {
        let (suspended, resumed) = (Mutex::new(false), Condvar::new());
        let copy = Arc::new(Copy { path, pipe, file, suspended, resumed });
        let (done, copied) = oneshot::channel();
        let copying = Arc::clone(&copy);
        Builder::new().name("output".to_owned()).spawn(move || {
            copying.run();
            // Delete may not wait any more.
            let _ = done.send(());
        })?;
        Ok(LogFile { copy, copied: Some(copied) })
    }

    /// Waits until everything was copied: after the last descriptor of the pipe's writing end was
    /// closed. Cancellation safe.
    pub(crate) async fn copied(&mut self) {
        if let Some(copied) = &mut self.copied {
            // An error: the thread has panicked.
            let _ = copied.await;
            self.copied = None;
        }
    }

    /// Stops the copy between two pieces, until [`LogFile::resume`]. Waits for the disk.
    pub(crate) async fn suspend(&self) {
        while !self.copy.try_suspend() {
            tokio::time::sleep(SUSPEND_PAUSE).await;
        }
    }

    pub(crate) fn resume(&self) {
        *self.copy.suspended() = false;
        self.copy.resumed.notify_all();
    }

    /// The suspended copy, for the next version of this executable.
    pub(crate) fn save(&self, out: &mut Outgoing) -> SavedLogFile {
        let Copy { path, pipe, file, .. } = &*self.copy;
        SavedLogFile { path: path.clone(), pipe: out.add(pipe), file: out.add(file) }
    }

    /// The copy of [`LogFile::save`].
    pub(crate) fn restore(
        saved: SavedLogFile,
        from: &mut Incoming,
    ) -> Result<LogFile, ResumeError> {
        let SavedLogFile { path, pipe, file } = saved;
        let (pipe, file) = (from.take(pipe)?.into(), from.take(file)?.into());
        LogFile::start(path, pipe, file)
            .map_err(|NoThread(source)| ResumeError::Io { action: "start a thread", source })
    }
}

impl Copy {
    /// Copies to the end. Output that cannot be written, as on a full disk, is lost: a guest that
    /// waits for room in the pipe would never continue.
    fn run(&self) {
        let (mut pipe, mut file) = (&self.pipe, &self.file);
        let mut buffer = vec![0; CHUNK];
        let mut whole = true;
        loop {
            let read = self.wait().and_then(|_turn| {
                let length = pipe.read(&mut buffer)?;
                let bytes = buffer.get(..length).unwrap_or_default();
                if let Err(error) = file.write_all(bytes)
                    && std::mem::take(&mut whole)
                {
                    log::error!("output is lost: cannot write {}: {error}", self.path.display());
                }
                Ok(length)
            });
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::error!("output for {} is lost: {error}", self.path.display());
                    return;
                }
            }
        }
    }

    /// Waits until the pipe has bytes and the copy is not suspended.
    fn wait(&self) -> io::Result<MutexGuard<'_, bool>> {
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let turn = self.resumed.wait_while(self.suspended(), |suspended| *suspended);
        Ok(turn.unwrap_or_else(PoisonError::into_inner))
    }

    fn try_suspend(&self) -> bool {
        let Ok(mut suspended) = self.suspended.try_lock() else { return false };
        *suspended = true;
        true
    }

    fn suspended(&self) -> MutexGuard<'_, bool> {
        self.suspended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[tokio::test]
    async fn all_that_was_written_is_in_the_file_when_the_copy_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut writer, mut copy) = append(&path, true).unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        writer.write_all(&bytes).unwrap();
        drop(writer);
        copy.copied().await;
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(path.metadata().unwrap().mode() & 0o7133, 0);
        let (mut writer, mut copy) = append(&path, false).unwrap();
        writer.write_all(b"more").unwrap();
        drop(writer);
        copy.copied().await;
        assert_eq!(path.metadata().unwrap().len(), 3_000_004);
    }

    #[tokio::test]
    async fn a_suspended_copy_takes_nothing_from_the_pipe_until_it_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut writer, mut copy) = append(&path, true).unwrap();
        copy.suspend().await;
        writer.write_all(b"text").unwrap();
        drop(writer);
        assert_eq!(wherry_sys::tty::unread(&copy.copy.pipe).unwrap(), 4);
        assert_eq!(path.metadata().unwrap().len(), 0);
        copy.resume();
        copy.copied().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
    }

    #[test]
    fn the_pipe_leads_to_nothing_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "of another container").unwrap();
        let (writer, _copied) = append(&path, true).unwrap();
        let link = format!("/proc/self/fd/{}", writer.as_raw_fd());
        assert!(std::fs::read_link(&link).unwrap().to_string_lossy().starts_with("pipe:"));
        std::fs::set_permissions(&link, std::fs::Permissions::from_mode(0o4755)).unwrap();
        // A pipe may be opened so. The file must stay as it is, whether it can be or not.
        let _ = OpenOptions::new().write(true).truncate(true).open(&link);
        assert_eq!(path.metadata().unwrap().mode() & 0o7022, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "of another container");
    }

    #[tokio::test]
    async fn a_disk_that_is_full_blocks_no_writer() {
        let (reader, mut writer) = io::pipe().unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut copy = LogFile::start("/dev/full".into(), reader, full).unwrap();
        // Many times the size of the pipe.
        writer.write_all(&vec![b'x'; 10 * CHUNK]).unwrap();
        drop(writer);
        copy.copied().await;
    }

    #[test]
    fn only_a_regular_file_of_an_absolute_path_takes_output() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = |path: &Path| append(path, true).unwrap_err();
        assert!(matches!(refused(Path::new("log")), LogFileError::Relative));
        assert!(matches!(refused(&fifo), LogFileError::NotRegular));
        assert!(matches!(refused(Path::new("/dev/null")), LogFileError::NotRegular));
        let error = refused(directory.path());
        assert!(
            matches!(&error, LogFileError::Io(error) if error.kind() == io::ErrorKind::IsADirectory)
        );
        assert!(append(&directory.path().join("missing"), false).is_err());
    }
}
