//! A guest's terminal: the daemon copies between it and the client's pipes.
//!
//! Clients come and go: the pipes stay open for both ways, so that detaching is no end of input
//! and output waits for the next reader.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::stdio::{StdioError, StdioPaths, drain, open_for_terminal, unread};

/// What is copied at once, bytes: what a terminal holds at the most.
const CHUNK: usize = 4096;

/// The daemon's end of a terminal.
#[derive(Debug)]
pub struct Terminal {
    master: Arc<AsyncFd<File>>,
    input: Option<JoinHandle<()>>,
    output: Option<JoinHandle<()>>,
    pipe: Option<(PathBuf, Arc<AsyncFd<File>>)>,
    copied: Option<oneshot::Receiver<()>>,
}

impl Terminal {
    /// Begins to copy between the terminal whose other end the guest has, and the client's pipes.
    /// Must be called within the runtime.
    ///
    /// # Errors
    /// When a pipe cannot be opened; the text names it.
    pub fn start(master: OwnedFd, paths: &StdioPaths) -> Result<Terminal, StdioError> {
        let pipes = open_for_terminal(paths)?;
        let failed = |source| StdioError::Open {
            stream: "the terminal",
            path: (&paths.stdout).into(),
            source,
        };
        let master = Arc::new(register(File::from(master)).map_err(failed)?);
        let mut terminal = Terminal { master, input: None, output: None, pipe: None, copied: None };
        if let Some(pipe) = pipes.input {
            let pipe = Arc::new(register(pipe).map_err(failed)?);
            terminal.input = Some(tokio::spawn(copy(pipe, Arc::clone(&terminal.master))));
        }
        if let Some((path, pipe)) = pipes.output {
            let pipe = Arc::new(register(pipe).map_err(failed)?);
            let (whole, copied) = oneshot::channel();
            let copying = copy(Arc::clone(&terminal.master), Arc::clone(&pipe));
            terminal.output = Some(tokio::spawn(async move {
                copying.await;
                let _ = whole.send(());
            }));
            terminal.copied = Some(copied);
            terminal.pipe = Some((path, pipe));
        }
        Ok(terminal)
    }

    /// Sets the size, columns and rows. The guest's foreground processes get SIGWINCH.
    ///
    /// # Errors
    /// When there is no such size.
    #[allow(unsafe_code)]
    pub fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        let fit = |value: u32| {
            u16::try_from(value).map_err(|_| {
                let text = format!("{columns} columns and {rows} rows are no size of a terminal");
                io::Error::new(io::ErrorKind::InvalidInput, text)
            })
        };
        let size =
            libc::winsize { ws_row: fit(rows)?, ws_col: fit(columns)?, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: reads one winsize where the pointer says.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        nix::errno::Errno::result(result)?;
        Ok(())
    }

    /// Resolves when all output is in the client's pipe: after the end of all processes that have the
    /// terminal open. It can be asked for once.
    pub fn copied(&mut self) -> Option<oneshot::Receiver<()>> {
        self.copied.take()
    }

    /// Whether output is still to be copied from the terminal, or to be read by the client.
    pub(crate) fn has_unread(&self) -> bool {
        let holds = |file: &File| unread(file).is_ok_and(|count| count > 0);
        let pipe = self.pipe.as_ref().is_some_and(|(_, pipe)| holds(pipe.get_ref()));
        pipe || holds(self.master.get_ref())
    }

    /// Copies no more input.
    pub fn close_stdin(&mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }

    /// Copies what the guest has written before its end, and lets go as
    /// [`crate::stdio::Kept::finish`] does.
    pub async fn finish(mut self) {
        self.close_stdin();
        if let Some(output) = &mut self.output {
            // It ends when no process has the terminal open any more.
            let _ = output.await;
        }
        if let Some((path, pipe)) = self.pipe.take()
            && let Some(pipe) = Arc::into_inner(pipe)
            && let Err(error) = drain(&path, pipe.into_inner()).await
        {
            log::warn!("{}: {error}", path.display());
        }
    }
}

impl Drop for Terminal {
    /// Nobody is left who would read what is still to be copied.
    fn drop(&mut self) {
        for copying in [&self.input, &self.output].into_iter().flatten() {
            copying.abort();
        }
    }
}

#[allow(unsafe_code)]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: a `File` has the same open descriptor until it is dropped.
    unsafe { AsyncFd::register(file) }.map_err(io::Error::from)
}

/// Copies until either side is gone.
async fn copy(from: Arc<AsyncFd<File>>, to: Arc<AsyncFd<File>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // An error here is the end: a terminal reports EIO when its other side has closed.
        let Ok(length @ 1..) =
            from.async_io(Interest::READABLE, |mut file| file.read(&mut buffer)).await
        else {
            return;
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            match to.async_io(Interest::WRITABLE, |mut file| file.write(rest)).await {
                Ok(written @ 1..) => rest = rest.get(written..).unwrap_or_default(),
                Ok(0) | Err(_) => return,
            }
        }
    }
}
