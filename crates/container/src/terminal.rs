//! A guest's terminal: the daemon copies between it and the client's pipes.
//!
//! Clients detach and attach: the daemon has the pipes open for reading and writing, so that a
//! detach does not end the input, and output waits for the next reader.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wherry_sys::tty;

use crate::stdio::{StdioError, StdioPaths, drain, open_for_terminal};

/// The size of a copy, bytes: the most that a terminal buffers.
const CHUNK: usize = 4096;

/// The daemon's end of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: Arc<AsyncFd<File>>,
    input: Option<JoinHandle<()>>,
    output: Option<JoinHandle<()>>,
    pipe: Option<(PathBuf, Arc<AsyncFd<File>>)>,
    copied: Option<oneshot::Receiver<()>>,
}

impl Terminal {
    /// Starts to copy between the daemon's end of a terminal and the client's pipes. Must be called
    /// within the runtime.
    ///
    /// # Errors
    /// If a pipe cannot be opened; the text names it.
    pub(crate) fn start(master: OwnedFd, paths: &StdioPaths) -> Result<Terminal, StdioError> {
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
                // Delete may not wait any more.
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
    /// If a number is above 65,535.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        tty::resize(self.master.get_ref(), columns.into(), rows.into())
    }

    /// Resolves when all output is in the client's pipe: after the last process has closed the
    /// terminal. Returns None the second time.
    pub(crate) fn copied(&mut self) -> Option<oneshot::Receiver<()>> {
        self.copied.take()
    }

    /// Whether output is still to be copied from the terminal, or to be read by the client.
    pub(crate) fn has_unread(&self) -> bool {
        let holds = |file: &File| tty::unread(file).is_ok_and(|count| count > 0);
        let pipe = self.pipe.as_ref().is_some_and(|(_, pipe)| holds(pipe.get_ref()));
        pipe || holds(self.master.get_ref())
    }

    /// Stops copying input.
    pub(crate) fn close_stdin(&mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }

    /// Copies the rest of the output after the exit, and closes the pipe as
    /// [`crate::stdio::Retained::finish`] does.
    pub(crate) async fn finish(mut self) {
        self.close_stdin();
        if let Some(output) = &mut self.output {
            // The copy ends when the last process has closed the terminal. It fails only if
            // aborted.
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
    /// Stops copying: no client will read the rest.
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
    // SAFETY: a `File` keeps the same open descriptor until it is dropped.
    unsafe { AsyncFd::register(file) }.map_err(io::Error::from)
}

/// Copies until either side closes.
async fn copy(from: Arc<AsyncFd<File>>, to: Arc<AsyncFd<File>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // An error ends the copy: a terminal reports EIO when its other end is closed.
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
