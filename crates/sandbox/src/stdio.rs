//! Standard streams without a terminal.
//!
//! A client makes a named pipe for each stream and reads or writes the other end. The guest gets
//! these pipes themselves: no byte is copied and nobody is woken on the way. The daemon keeps a
//! descriptor of its own on the outputs, so that a guest may write on when the client goes away
//! and comes back, as containerd does when it restarts. Input ends when the client closes its
//! end: not every client says so with CloseIO. Output to a file is copied: see [`crate::logfile`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::logfile::{self, LogFileError};
use crate::terminal::Terminal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// The daemon's part in a process's streams.
#[derive(Debug)]
pub enum Streams {
    /// The guest has the client's pipes.
    Pipes(Kept),
    /// The guest has a terminal.
    Terminal(Terminal),
}

impl Streams {
    /// Lets go of the input: see [`Kept::close_stdin`] and [`Terminal::close_stdin`].
    pub fn close_stdin(&mut self) {
        match self {
            Streams::Pipes(kept) => kept.close_stdin(),
            Streams::Terminal(terminal) => terminal.close_stdin(),
        }
    }

    /// The terminal, if there is one.
    #[must_use]
    pub fn terminal(&self) -> Option<&Terminal> {
        match self {
            Streams::Pipes(_) => None,
            Streams::Terminal(terminal) => Some(terminal),
        }
    }

    /// Each resolves when all output of a stream is where a client finds it. Streams that the guest writes there itself
    /// have none.
    pub fn copied(&mut self) -> Vec<oneshot::Receiver<()>> {
        match self {
            Streams::Pipes(kept) => std::mem::take(&mut kept.copied),
            Streams::Terminal(terminal) => terminal.copied().into_iter().collect(),
        }
    }

    /// Whether a client has not read all output that the guest has written to it.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        match self {
            Streams::Pipes(kept) => {
                kept.outputs.iter().any(|(_, pipe)| unread(pipe).is_ok_and(|count| count > 0))
            }
            Streams::Terminal(terminal) => terminal.has_unread(),
        }
    }

    /// Lets go of the streams after the guest's end, without losing what nobody has read yet.
    pub async fn finish(self) {
        match self {
            Streams::Pipes(kept) => kept.finish().await,
            Streams::Terminal(terminal) => terminal.finish().await,
        }
    }
}

/// Where the streams go, as a client says it: the path of a named pipe, `file://` and the path of
/// a file to append to, or empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The guest's ends.
#[derive(Debug)]
pub struct GuestEnds {
    /// Standard input, output and error.
    pub fds: [OwnedFd; 3],
}

/// What the daemon keeps while the guest lives.
#[derive(Debug, Default)]
pub struct Kept {
    stdin: Option<File>,
    outputs: Vec<(PathBuf, File)>,
    copied: Vec<oneshot::Receiver<()>>,
}

/// Why a stream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The pipe or file cannot be opened.
    #[error("cannot open {} for {stream}: {source}", .path.display())]
    Open {
        /// Which stream.
        stream: &'static str,
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file for output cannot be had.
    #[error("cannot open {} for {stream}: {source}", .path.display())]
    LogFile {
        /// Which stream.
        stream: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: LogFileError,
    },
    /// The guest would get the file itself.
    #[error("cannot read {stream} from {}: it is not a named pipe", .path.display())]
    NotFifo {
        /// Which stream.
        stream: &'static str,
        /// What was to be opened.
        path: PathBuf,
    },
    /// A way to log that there is no support for.
    #[error("cannot write {stream} to {uri}: only named pipes and file:// are supported")]
    Scheme {
        /// Which stream.
        stream: &'static str,
        /// What was asked for.
        uri: String,
    },
}

/// How long input is held open for a client that is slow to open its end. Clients do so before
/// they ask for a container; one with nothing to say may even have closed it again by then, and
/// nothing in the kernel tells the two apart.
pub const CLIENT_OPENS: Duration = Duration::from_secs(1);

/// What takes a stream that the client does not want.
const NULL: &str = "/dev/null";

/// Opens all three streams. Must be called within the runtime.
///
/// # Errors
/// When one cannot be opened; the text names it.
pub fn open(paths: &StdioPaths) -> Result<(GuestEnds, Kept), StdioError> {
    let mut kept = Kept::default();
    let stdin = input(&paths.stdin, &mut kept)?;
    let stdout = output("standard output", &paths.stdout, &mut kept)?;
    let stderr = if paths.stderr == paths.stdout {
        stdout.try_clone().map_err(|source| StdioError::Open {
            stream: "standard error",
            path: (&paths.stderr).into(),
            source,
        })?
    } else {
        output("standard error", &paths.stderr, &mut kept)?
    };
    Ok((GuestEnds { fds: [stdin, stdout, stderr] }, kept))
}

fn input(path: &str, kept: &mut Kept) -> Result<OwnedFd, StdioError> {
    const STREAM: &str = "standard input";
    let failed =
        |path: &Path, source| StdioError::Open { stream: STREAM, path: path.into(), source };
    if path.is_empty() {
        let null = Path::new(NULL);
        return Ok(File::open(null).map_err(|source| failed(null, source))?.into());
    }
    let path = Path::new(path);
    if !is_fifo(path).map_err(|source| failed(path, source))? {
        return Err(StdioError::NotFifo { stream: STREAM, path: path.into() });
    }
    // Held open for a moment: a guest that reads before the client has opened its end would see
    // the end of the file. It also makes the next open return at once.
    kept.stdin = Some(keep(path).map_err(|source| failed(path, source))?);
    Ok(File::open(path).map_err(|source| failed(path, source))?.into())
}

fn output(stream: &'static str, path: &str, kept: &mut Kept) -> Result<OwnedFd, StdioError> {
    let failed = |path: &Path, source| StdioError::Open { stream, path: path.into(), source };
    let open = |path: &Path| OpenOptions::new().append(true).open(path);
    let (path, create) = match path.split_once("://") {
        _ if path.is_empty() => {
            let null = Path::new(NULL);
            return Ok(open(null).map_err(|source| failed(null, source))?.into());
        }
        None => (Path::new(path), false),
        Some(("file", rest)) => (Path::new(rest.split('?').next().unwrap_or(rest)), true),
        Some(_) => return Err(StdioError::Scheme { stream, uri: path.to_owned() }),
    };
    if !create && is_fifo(path).map_err(|source| failed(path, source))? {
        // Opened first, and for both ways: it makes the next open return at once.
        let keeper = keep(path).map_err(|source| failed(path, source))?;
        kept.outputs.push((path.to_owned(), keeper));
        return Ok(open(path).map_err(|source| failed(path, source))?.into());
    }
    let (pipe, copied) = logfile::append(path, create).map_err(|source| StdioError::LogFile {
        stream,
        path: path.into(),
        source,
    })?;
    kept.copied.push(copied);
    Ok(pipe.into())
}

fn is_fifo(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_fifo())
}

fn keep(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

impl Kept {
    /// Lets go of the input, because the client has said that there is no more, or because
    /// [`CLIENT_OPENS`] is over. The guest sees the end of the file when no client has its end
    /// open.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Lets go of the streams after the guest's end, without losing what nobody has read yet: a
    /// pipe's contents go when its last descriptor does.
    pub async fn finish(self) {
        for (path, keeper) in self.outputs {
            if let Err(error) = drain(&path, keeper).await {
                log::warn!("{}: {error}", path.display());
            }
        }
    }
}

/// What a terminal needs of the pipes.
pub(crate) struct TerminalPipes {
    pub(crate) input: Option<File>,
    pub(crate) output: Option<(PathBuf, File)>,
}

/// Opens the pipes between which and a terminal the daemon copies.
pub(crate) fn open_for_terminal(paths: &StdioPaths) -> Result<TerminalPipes, StdioError> {
    let one = |stream: &'static str, path: &str| {
        let path = Path::new(path);
        match keep(path) {
            Ok(file) => Ok(Some(file)),
            Err(_) if path.as_os_str().is_empty() => Ok(None),
            Err(source) => Err(StdioError::Open { stream, path: path.into(), source }),
        }
    };
    let input = one("standard input", &paths.stdin)?;
    let output = one("standard output", &paths.stdout)?;
    Ok(TerminalPipes { input, output: output.map(|file| ((&paths.stdout).into(), file)) })
}

/// Waits until the pipe is empty or a reader has it open: a reader gets all that is in the pipe
/// and then the end of the file, whatever we do.
pub(crate) async fn drain(path: &Path, keeper: File) -> io::Result<()> {
    if unread(&keeper)? == 0 {
        return Ok(());
    }
    // From here on with the writing end alone, or we would be the reader that we look for.
    let writer = match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(writer) => writer,
        // The client has removed its pipe: nobody will ever read it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    drop(keeper);
    let mut pause = Duration::from_millis(5);
    while unread(&writer)? > 0 && !has_reader(&writer)? {
        // Only when containerd is away while a container ends; nothing tells us of its return.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    Ok(())
}

/// The number of bytes that can be read from a pipe or terminal.
#[allow(unsafe_code)]
pub(crate) fn unread(pipe: &File) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int where the pointer says.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    nix::errno::Errno::result(result)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn has_reader(writer: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    Ok(!events.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::thread;

    fn fifo(directory: &Path, name: &str) -> String {
        let path = directory.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn output_without_a_reader_waits_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let stdout = fifo(directory.path(), "out");
        let paths = StdioPaths { stdout: stdout.clone(), ..StdioPaths::default() };
        let (ends, kept) = open(&paths).unwrap();
        let [_, guest, _] = ends.fds;
        File::from(guest).write_all(b"last words").unwrap();
        let finish = tokio::spawn(kept.finish());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!finish.is_finished());
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            File::open(stdout).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(read.await.unwrap(), "last words");
        finish.await.unwrap();
    }

    #[test]
    fn input_ends_when_the_client_closes() {
        let directory = tempfile::tempdir().unwrap();
        let stdin = fifo(directory.path(), "in");
        let paths = StdioPaths { stdin: stdin.clone(), ..StdioPaths::default() };
        let (ends, mut kept) = open(&paths).unwrap();
        let [guest, _, _] = ends.fds;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            File::from(guest).read_to_string(&mut text).unwrap();
            text
        });
        // The guest reads before the client has come.
        thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished());
        let mut client = OpenOptions::new().write(true).open(stdin).unwrap();
        kept.close_stdin();
        client.write_all(b"hello").unwrap();
        drop(client);
        assert_eq!(reader.join().unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_file_is_appended_to_and_other_ways_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "a").unwrap();
        let uri = format!("file://{}", path.display());
        let paths = StdioPaths { stdout: uri.clone(), stderr: uri, ..StdioPaths::default() };
        let (ends, kept) = open(&paths).unwrap();
        let [_, out, err] = ends.fds;
        File::from(out).write_all(b"b").unwrap();
        File::from(err).write_all(b"c").unwrap();
        let copied = Streams::Pipes(kept).copied();
        assert_eq!(copied.len(), 1, "both streams have one pipe");
        for copied in copied {
            copied.await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");

        let refused = |paths: StdioPaths| open(&paths).unwrap_err().to_string();
        let stdout = |stdout: &str| StdioPaths { stdout: stdout.into(), ..StdioPaths::default() };
        assert_eq!(
            refused(stdout("binary:///bin/logger")),
            "cannot write standard output to binary:///bin/logger: only named pipes and file:// are supported"
        );
        assert_eq!(
            refused(stdout("file://log")),
            "cannot open log for standard output: the path is not absolute"
        );
        assert_eq!(
            refused(stdout("file:///")),
            "cannot open / for standard output: Is a directory (os error 21)"
        );
        let stdin = |stdin: String| StdioPaths { stdin, ..StdioPaths::default() };
        let text = refused(stdin("/nowhere".into()));
        assert!(text.starts_with("cannot open /nowhere for standard input"), "{text}");
        let file = path.display().to_string();
        assert_eq!(
            refused(stdin(file.clone())),
            format!("cannot read standard input from {file}: it is not a named pipe")
        );
    }

    #[tokio::test]
    async fn a_file_that_is_named_by_its_path_is_not_the_guests_either() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "").unwrap();
        let stdout = path.display().to_string();
        let (ends, _kept) = open(&StdioPaths { stdout, ..StdioPaths::default() }).unwrap();
        let [_, out, _] = ends.fds;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", out.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with("pipe:"), "{}", link.display());
    }
}
