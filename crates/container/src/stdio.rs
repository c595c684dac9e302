//! Standard streams without a terminal.
//!
//! A client creates a named pipe for each stream and opens the other end. The guest gets these
//! pipes themselves: no byte is copied, and the daemon does not wake. The daemon retains a
//! descriptor of each output, so that a guest can continue to write while the client is away, as
//! containerd is when it restarts. Input ends when the client closes its end, because not every
//! client sends CloseIO. Output to a file is copied: see [`crate::log_file`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use wherry_protocol::{Failure, FailureKind, Stdio};
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};
use wherry_sys::tty::unread;

use crate::log_file::{self, LogFile, LogFileError, SavedLogFile};
use crate::terminal::{SavedTerminal, Terminal};

/// The daemon's ends of a process's streams.
#[derive(Debug)]
pub(crate) enum Streams {
    /// The guest has the client's pipes.
    Pipes(Retained),
    /// The guest has a terminal.
    Terminal(Terminal),
}

impl Streams {
    /// Starts to copy between the client and a process: its terminal, if it has one, or its
    /// retained pipes. Must be called within the runtime.
    ///
    /// # Errors
    /// If a pipe cannot be opened, or the engine host sent no terminal.
    pub(crate) fn start(
        retained: Option<Retained>,
        console: Option<OwnedFd>,
        paths: &StdioPaths,
    ) -> Result<Streams, Failure> {
        match (retained, console) {
            (Some(retained), _) => Ok(Streams::Pipes(retained)),
            (None, Some(console)) => {
                Ok(Streams::Terminal(Terminal::start(console, paths).map_err(system)?))
            }
            (None, None) => {
                Err(Failure::new(FailureKind::System, "the engine host sent no terminal"))
            }
        }
    }

    /// Closes the input: see [`Retained::close_stdin`] and [`Terminal::close_stdin`].
    pub(crate) fn close_stdin(&mut self) {
        match self {
            Streams::Pipes(retained) => retained.close_stdin(),
            Streams::Terminal(terminal) => terminal.close_stdin(),
        }
    }

    /// The terminal, if the process has one.
    #[must_use]
    pub(crate) fn terminal(&self) -> Option<&Terminal> {
        match self {
            Streams::Pipes(_) => None,
            Streams::Terminal(terminal) => Some(terminal),
        }
    }

    /// Waits until the client can read all output that the daemon copies. A pipe that the guest
    /// writes itself needs no copy. Cancellation safe.
    pub(crate) async fn copied(&mut self) {
        match self {
            Streams::Pipes(retained) => retained.copied().await,
            Streams::Terminal(terminal) => terminal.copied().await,
        }
    }

    /// Whether a client has not read all output that the guest has written to it.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Streams::Pipes(retained) => {
                retained.outputs.iter().any(|(_, pipe)| unread(pipe).is_ok_and(|count| count > 0))
            }
            Streams::Terminal(terminal) => terminal.has_unread(),
        }
    }

    /// Closes the streams after the exit, without losing unread output: a pipe's contents are lost
    /// with its last descriptor. Cancellation safe: the next call continues.
    pub(crate) async fn finish(&mut self) {
        if let Streams::Terminal(terminal) = self {
            terminal.close_stdin();
            terminal.copied().await;
            if let Streams::Terminal(terminal) =
                std::mem::replace(self, Streams::Pipes(Retained::default()))
            {
                let outputs = terminal.into_output().into_iter().collect();
                *self = Streams::Pipes(Retained { outputs, ..Retained::default() });
            }
        }
        if let Streams::Pipes(retained) = self {
            retained.finish().await;
        }
    }

    /// Stops all copies, with no byte lost, until [`Streams::resume`].
    pub(crate) async fn suspend(&mut self) {
        match self {
            Streams::Pipes(retained) => {
                for copy in &retained.copies {
                    copy.suspend().await;
                }
            }
            Streams::Terminal(terminal) => terminal.suspend(),
        }
    }

    pub(crate) fn resume(&mut self) {
        match self {
            Streams::Pipes(retained) => retained.copies.iter().for_each(LogFile::resume),
            Streams::Terminal(terminal) => terminal.resume(),
        }
    }

    /// The suspended streams, for the next version of this executable.
    pub(crate) fn save(&self, out: &mut Outgoing) -> SavedStreams {
        match self {
            Streams::Pipes(Retained { stdin, outputs, copies }) => SavedStreams::Pipes {
                stdin: stdin.as_ref().map(|pipe| out.add(pipe)),
                outputs: outputs.iter().map(|(path, pipe)| (path.clone(), out.add(pipe))).collect(),
                copies: copies.iter().map(|copy| copy.save(out)).collect(),
            },
            Streams::Terminal(terminal) => SavedStreams::Terminal(terminal.save(out)),
        }
    }

    /// The streams of [`Streams::save`]. Must be called within the runtime.
    pub(crate) fn restore(
        saved: SavedStreams,
        from: &mut Incoming,
    ) -> Result<Streams, ResumeError> {
        let (stdin, outputs, copies) = match saved {
            SavedStreams::Terminal(terminal) => {
                return Ok(Streams::Terminal(Terminal::restore(terminal, from)?));
            }
            SavedStreams::Pipes { stdin, outputs, copies } => (stdin, outputs, copies),
        };
        let mut retained = Retained::default();
        if let Some(pipe) = stdin {
            retained.stdin = Some(from.take(pipe)?.into());
        }
        for (path, pipe) in outputs {
            retained.outputs.push((path, from.take(pipe)?.into()));
        }
        for copy in copies {
            retained.copies.push(LogFile::restore(copy, from)?);
        }
        Ok(Streams::Pipes(retained))
    }
}

/// Streams in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedStreams {
    /// The fields are those of [`Retained`].
    Pipes {
        stdin: Option<Descriptor>,
        outputs: Vec<(PathBuf, Descriptor)>,
        copies: Vec<SavedLogFile>,
    },
    /// A terminal.
    Terminal(SavedTerminal),
}

/// The client's streams: the path of a named pipe, `file://` and the path of a file to append to,
/// or empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioPaths {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The pipes that the daemon retains while the guest lives.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    stdin: Option<File>,
    outputs: Vec<(PathBuf, File)>,
    copies: Vec<LogFile>,
}

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// The pipe or file cannot be opened.
    #[error("cannot open {} for {stream}: {source}", .path.display())]
    Open {
        /// The stream.
        stream: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file for output cannot be opened.
    #[error("cannot open {} for {stream}: {source}", .path.display())]
    LogFile {
        /// The stream.
        stream: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: LogFileError,
    },
    /// The guest would get the file itself.
    #[error("cannot read {stream} from {}: it is not a named pipe", .path.display())]
    NotFifo {
        /// The stream.
        stream: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The scheme of the URI is not supported.
    #[error("cannot write {stream} to {uri}: only named pipes and file:// are supported")]
    Scheme {
        /// The stream.
        stream: &'static str,
        /// The URI.
        uri: String,
    },
}

/// How long input is held open for a client that is slow to open its end. Clients open it before
/// they create a container, and one without input may have closed it again by then: the kernel does
/// not distinguish the two.
pub(crate) const CLIENT_OPENS: Duration = Duration::from_secs(1);

/// The file for a stream that the client leaves out.
const NULL: &str = "/dev/null";

/// Opens all three streams. Must be called within the runtime.
///
/// # Errors
/// If one cannot be opened; the text names it.
pub(crate) fn open(paths: &StdioPaths) -> Result<(Stdio, Retained), StdioError> {
    let mut retained = Retained::default();
    let stdin = input(&paths.stdin, &mut retained)?;
    let stdout = output("standard output", &paths.stdout, &mut retained)?;
    let stderr = if paths.stderr == paths.stdout {
        stdout.try_clone().map_err(|source| StdioError::Open {
            stream: "standard error",
            path: (&paths.stderr).into(),
            source,
        })?
    } else {
        output("standard error", &paths.stderr, &mut retained)?
    };
    Ok((Stdio { stdin, stdout, stderr }, retained))
}

/// Opens the streams of a process without a terminal. A terminal is opened by the engine host.
pub(crate) fn open_unless_terminal(
    paths: &StdioPaths,
    terminal: bool,
) -> Result<Option<(Stdio, Retained)>, Failure> {
    if terminal { Ok(None) } else { open(paths).map(Some).map_err(system) }
}

fn system(error: StdioError) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}

fn input(path: &str, retained: &mut Retained) -> Result<OwnedFd, StdioError> {
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
    // Held open for a moment: a guest that reads before the client has opened its end would read
    // the end of the file. Without a writer the next open would block, too.
    retained.stdin = Some(open_rdwr(path).map_err(|source| failed(path, source))?);
    Ok(File::open(path).map_err(|source| failed(path, source))?.into())
}

fn output(
    stream: &'static str,
    path: &str,
    retained: &mut Retained,
) -> Result<OwnedFd, StdioError> {
    let failed = |path: &Path, source| StdioError::Open { stream, path: path.into(), source };
    let open = |path: &Path| OpenOptions::new().append(true).open(path);
    let (path, create) = match path.split_once("://") {
        _ if path.is_empty() => {
            let null = Path::new(NULL);
            return Ok(open(null).map_err(|source| failed(null, source))?.into());
        }
        None => (Path::new(path), false),
        Some(("file", rest)) => {
            // A client may append options, which have no meaning here.
            (Path::new(rest.split_once('?').map_or(rest, |(path, _)| path)), true)
        }
        Some(_) => return Err(StdioError::Scheme { stream, uri: path.to_owned() }),
    };
    if !create && is_fifo(path).map_err(|source| failed(path, source))? {
        // Opened first, for reading and writing: without a reader the next open would block.
        let keeper = open_rdwr(path).map_err(|source| failed(path, source))?;
        retained.outputs.push((path.to_owned(), keeper));
        return Ok(open(path).map_err(|source| failed(path, source))?.into());
    }
    let (pipe, copy) = log_file::append(path, create).map_err(|source| StdioError::LogFile {
        stream,
        path: path.into(),
        source,
    })?;
    retained.copies.push(copy);
    Ok(pipe.into())
}

fn is_fifo(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_fifo())
}

fn open_rdwr(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

impl Retained {
    /// Closes the input, because the client has sent CloseIO or [`CLIENT_OPENS`] is over. The guest
    /// reads the end of the file when no client has its end open.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// As [`Streams::copied`].
    async fn copied(&mut self) {
        for copy in &mut self.copies {
            copy.copied().await;
        }
    }

    /// As [`Streams::finish`].
    async fn finish(&mut self) {
        while let Some((path, pipe)) = self.outputs.last_mut() {
            if let Err(error) = drain(path, pipe).await {
                log::warn!("{}: {error}", path.display());
            }
            self.outputs.pop();
        }
        self.copied().await;
    }
}

/// The client's pipes of a terminal.
pub(crate) struct TerminalPipes {
    pub(crate) input: Option<File>,
    pub(crate) output: Option<(PathBuf, File)>,
}

/// Opens the pipes of a terminal.
pub(crate) fn open_for_terminal(paths: &StdioPaths) -> Result<TerminalPipes, StdioError> {
    let one = |stream: &'static str, path: &str| {
        let path = Path::new(path);
        match open_rdwr(path) {
            Ok(file) => Ok(Some(file)),
            Err(_) if path.as_os_str().is_empty() => Ok(None),
            Err(source) => Err(StdioError::Open { stream, path: path.into(), source }),
        }
    };
    let input = one("standard input", &paths.stdin)?;
    let output = one("standard output", &paths.stdout)?;
    Ok(TerminalPipes { input, output: output.map(|file| ((&paths.stdout).into(), file)) })
}

/// Waits until a pipe is empty or a reader has it open: a reader gets everything in the pipe, and
/// then the end of the file, also after the writer has closed. Replaces `pipe`, a descriptor of it,
/// by one for writing. Cancellation safe.
pub(crate) async fn drain(path: &Path, pipe: &mut File) -> io::Result<()> {
    if unread(pipe)? == 0 {
        return Ok(());
    }
    // Only the writing end is open from here on: `pipe` counts as a reader.
    *pipe = match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(writer) => writer,
        // The client has removed its pipe.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut pause = Duration::from_millis(5);
    while unread(pipe)? > 0 && !has_reader(pipe)? {
        // Only if containerd is away while a container exits. No event reports its return.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    Ok(())
}

fn has_reader(writer: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    Ok(!events.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests;
