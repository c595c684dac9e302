//! Output to a file (`file://`).
//!
//! The guest gets a pipe, and a thread of the daemon appends to the file. With the file itself the
//! guest could read or truncate it, or make it executable on the host.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::thread::{NoThread, Thread};

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
/// file is created with mode 0644 less the umask, as by containerd's shim for runc. The receiver
/// resolves when everything is copied, after the last descriptor of the pipe's writing end was
/// closed.
///
/// # Errors
/// If the file cannot be opened, or is not a regular one.
pub(crate) fn append(
    path: &Path,
    create: bool,
) -> Result<(PipeWriter, oneshot::Receiver<()>), LogFileError> {
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
    let path = path.to_owned();
    let copied = Thread::take()?.run(move || copy(reader, file, path));
    Ok((writer, copied))
}

/// Copies to the end. Output that cannot be written, as on a full disk, is lost: a guest that waits
/// for room in the pipe would never continue.
fn copy(pipe: PipeReader, mut file: File, path: PathBuf) {
    let mut pipe = BufReader::with_capacity(CHUNK, pipe);
    let mut whole = true;
    loop {
        match pipe.fill_buf() {
            Ok([]) => return,
            Ok(bytes) => {
                let (length, written) = (bytes.len(), file.write_all(bytes));
                pipe.consume(length);
                if let Err(error) = written
                    && std::mem::take(&mut whole)
                {
                    log::error!("output is lost: cannot write {}: {error}", path.display());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::error!("output for {} is lost: {error}", path.display());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn all_that_was_written_is_in_the_file_when_the_receiver_resolves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut writer, copied) = append(&path, true).unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        writer.write_all(&bytes).unwrap();
        drop(writer);
        copied.blocking_recv().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(path.metadata().unwrap().mode() & 0o7133, 0);
        let (mut writer, copied) = append(&path, false).unwrap();
        writer.write_all(b"more").unwrap();
        drop(writer);
        copied.blocking_recv().unwrap();
        assert_eq!(path.metadata().unwrap().len(), 3_000_004);
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

    #[test]
    fn a_disk_that_is_full_blocks_no_writer() {
        let (reader, mut writer) = io::pipe().unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let copying = std::thread::spawn(move || copy(reader, full, "/dev/full".into()));
        // Many times what the pipe holds.
        writer.write_all(&vec![b'x'; 10 * CHUNK]).unwrap();
        drop(writer);
        copying.join().unwrap();
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
