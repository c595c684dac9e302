//! A guest's terminal: the daemon copies between it and the client's pipes.
//!
//! Clients detach and attach: the daemon has the pipes open for reading and writing, so that a
//! detach does not end the input, and output waits for the next reader.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};
use wherry_sys::tty;

use crate::stdio::{StdioError, StdioPaths, open_for_terminal};

/// The size of a copy, bytes: the most that a terminal buffers.
const CHUNK: usize = 4096;

/// The daemon's end of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: Arc<AsyncFd<File>>,
    input: Option<Copy>,
    /// With the path of the client's pipe.
    output: Option<(PathBuf, Copy)>,
}

/// A copy from one descriptor to another.
#[derive(Debug)]
struct Copy {
    ends: Arc<Ends>,
    /// None while it is suspended, and when it has ended.
    task: Option<JoinHandle<()>>,
}

/// The state of a copy, which its task shares.
#[derive(Debug)]
struct Ends {
    from: Arc<AsyncFd<File>>,
    to: Arc<AsyncFd<File>>,
    /// Bytes that were read and not written yet.
    rest: Mutex<Vec<u8>>,
}

/// A terminal in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTerminal {
    master: Descriptor,
    input: Option<SavedCopy>,
    output: Option<(PathBuf, SavedCopy)>,
}

/// The client's end of a copy, and the bytes on their way.
#[derive(Debug, Serialize, Deserialize)]
struct SavedCopy {
    pipe: Descriptor,
    rest: Vec<u8>,
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
        let with = |pipe| (pipe, Vec::new());
        let input = pipes.input.map(with);
        let output = pipes.output.map(|(path, pipe)| (path, with(pipe)));
        let mut terminal = Terminal::new(master.into(), input, output).map_err(failed)?;
        terminal.resume();
        Ok(terminal)
    }

    /// A terminal that is suspended, with the client's pipes and the bytes on their way.
    fn new(
        master: File,
        input: Option<(File, Vec<u8>)>,
        output: Option<(PathBuf, (File, Vec<u8>))>,
    ) -> io::Result<Terminal> {
        let master = Arc::new(register(master)?);
        let input = input
            .map(|(pipe, rest)| {
                Ok::<_, io::Error>(Copy::new(Arc::new(register(pipe)?), Arc::clone(&master), rest))
            })
            .transpose()?;
        let output = output
            .map(|(path, (pipe, rest))| {
                let pipe = Arc::new(register(pipe)?);
                Ok::<_, io::Error>((path, Copy::new(Arc::clone(&master), pipe, rest)))
            })
            .transpose()?;
        Ok(Terminal { master, input, output })
    }

    /// Sets the size, columns and rows. The guest's foreground processes get SIGWINCH.
    ///
    /// # Errors
    /// If a number is above 65,535.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        tty::resize(self.master.get_ref(), columns.into(), rows.into())
    }

    /// Waits until all output is in the client's pipe: until the last process has closed the
    /// terminal. Cancellation safe.
    pub(crate) async fn copied(&mut self) {
        if let Some((_, output)) = &mut self.output
            && let Some(task) = &mut output.task
        {
            // Fails only if it was aborted.
            let _ = task.await;
            output.task = None;
        }
    }

    /// Whether output is still to be copied from the terminal, or to be read by the client.
    ///
    /// The bytes that the terminal's master reports as readable do not answer that: a write reaches
    /// it through a worker of the kernel, which on a busy machine runs after the guest's exit. So a
    /// copy is complete when it has ended.
    pub(crate) fn has_unread(&self) -> bool {
        let Some((_, Copy { ends, task })) = &self.output else { return false };
        let copies = task.as_ref().is_some_and(|task| !task.is_finished());
        let holds = |file: &File| tty::unread(file).is_ok_and(|count| count > 0);
        copies || !ends.rest().is_empty() || holds(ends.to.get_ref())
    }

    /// Stops copying input.
    pub(crate) fn close_stdin(&mut self) {
        self.input = None;
    }

    /// The client's pipe for output, with its path: after the copy.
    pub(crate) fn into_output(mut self) -> Option<(PathBuf, File)> {
        let (path, mut copy) = self.output.take()?;
        copy.suspend();
        match copy.ends.to.get_ref().try_clone() {
            Ok(pipe) => Some((path, pipe)),
            Err(error) => {
                log::warn!("{}: {error}", path.display());
                None
            }
        }
    }

    /// Stops the copies, each between a read and a write, until [`Terminal::resume`].
    pub(crate) fn suspend(&mut self) {
        self.copies().for_each(Copy::suspend);
    }

    pub(crate) fn resume(&mut self) {
        self.copies().for_each(Copy::resume);
    }

    fn copies(&mut self) -> impl Iterator<Item = &mut Copy> {
        self.input.iter_mut().chain(self.output.iter_mut().map(|(_, copy)| copy))
    }

    /// The suspended terminal, for the next version of this executable.
    pub(crate) fn save(&self, out: &mut Outgoing) -> SavedTerminal {
        let mut saved = |pipe: &AsyncFd<File>, copy: &Copy| SavedCopy {
            pipe: out.add(pipe.get_ref()),
            rest: copy.ends.rest().clone(),
        };
        let input = self.input.as_ref().map(|copy| saved(&copy.ends.from, copy));
        let output =
            self.output.as_ref().map(|(path, copy)| (path.clone(), saved(&copy.ends.to, copy)));
        SavedTerminal { master: out.add(self.master.get_ref()), input, output }
    }

    /// The terminal of [`Terminal::save`]. Must be called within the runtime.
    pub(crate) fn restore(
        saved: SavedTerminal,
        from: &mut Incoming,
    ) -> Result<Terminal, ResumeError> {
        let SavedTerminal { master, input, output } = saved;
        let master = from.take(master)?.into();
        let mut copy = |SavedCopy { pipe, rest }: SavedCopy| {
            Ok::<_, ResumeError>((File::from(from.take(pipe)?), rest))
        };
        let input = input.map(&mut copy).transpose()?;
        let output = match output {
            Some((path, saved)) => Some((path, copy(saved)?)),
            None => None,
        };
        let mut terminal =
            Terminal::new(master, input, output).map_err(ResumeError::of("watch a terminal"))?;
        terminal.resume();
        Ok(terminal)
    }
}

impl Copy {
    /// A copy that is suspended, with bytes that were read and not written yet.
    fn new(from: Arc<AsyncFd<File>>, to: Arc<AsyncFd<File>>, rest: Vec<u8>) -> Copy {
        Copy { ends: Arc::new(Ends { from, to, rest: Mutex::new(rest) }), task: None }
    }

    fn suspend(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn resume(&mut self) {
        self.suspend();
        self.task = Some(tokio::spawn(copy(Arc::clone(&self.ends))));
    }
}

impl Drop for Copy {
    /// Stops copying: no client will read the rest.
    fn drop(&mut self) {
        self.suspend();
    }
}

impl Ends {
    /// No code panics while it holds this lock.
    fn rest(&self) -> MutexGuard<'_, Vec<u8>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(unsafe_code)]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: a `File` keeps the same open descriptor until it is dropped.
    unsafe { AsyncFd::register(file) }.map_err(io::Error::from)
}

/// Copies until either side closes. May be aborted and repeated: all bytes are in `rest` meanwhile.
async fn copy(ends: Arc<Ends>) {
    let Ends { from, to, .. } = &*ends;
    let mut buffer = vec![0; CHUNK];
    loop {
        while !ends.rest().is_empty() {
            let write = |mut file: &File| {
                let mut rest = ends.rest();
                let written = file.write(&rest)?;
                rest.drain(..written);
                Ok(written)
            };
            let Ok(1..) = to.async_io(Interest::WRITABLE, write).await else { return };
        }
        let read = |mut file: &File| {
            let length = file.read(&mut buffer)?;
            ends.rest().extend_from_slice(buffer.get(..length).unwrap_or_default());
            Ok(length)
        };
        // An error ends the copy: a terminal reports EIO when its other end is closed.
        let Ok(1..) = from.async_io(Interest::READABLE, read).await else { return };
    }
}
