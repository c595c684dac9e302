//! The guest's standard streams: this process's descriptors 0, 1 and 2, with no buffer between.
//!
//! Wasmtime's own output goes through the standard library's line buffer, and its input through a
//! helper thread that lives as long as the process.

use std::io::{self, IsTerminal as _};
use std::os::fd::BorrowedFd;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe::Receiver;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most that one call reads, and that one call is told it may write.
const CHUNK: usize = 64 * 1024;

/// Descriptor 1 or 2. A write blocks the guest's thread until all is written: a slow reader slows
/// the guest, as it does any program.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Output::Stdout => rustix::stdio::stdout(),
            Output::Stderr => rustix::stdio::stderr(),
        }
    }

    fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.fd(), bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Whoever shares the other end may have made it non-blocking.
                Err(Errno::AGAIN) => wait(self.fd(), PollFlags::OUT, None).map(drop)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.fd().is_terminal()
    }
}

impl StdoutStream for Output {
    /// Of WASI's preview 3 alone, which this build has not.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(*self)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_all(&bytes).map_err(failed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write(bytes)
    }
}

/// Descriptor 0.
#[derive(Clone, Copy)]
pub(crate) struct Input;

impl Input {
    fn readable(self) -> bool {
        // An error is for the read to report.
        wait(rustix::stdio::stdin(), PollFlags::IN, Some(&Timespec::default())).unwrap_or(true)
    }

    /// One read. Blocks if there is nothing to read.
    fn read_some(self, size: usize) -> StreamResult<Bytes> {
        let mut buffer = BytesMut::zeroed(size.min(CHUNK));
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(0) if size > 0 => Err(StreamError::Closed),
            Ok(read) => {
                buffer.truncate(read);
                Ok(buffer.freeze())
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(Bytes::new()),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        rustix::stdio::stdin().is_terminal()
    }
}

impl StdinStream for Input {
    /// Of WASI's preview 3 alone, which this build has not.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(*self)
    }
}

#[async_trait]
impl Pollable for Input {
    /// Regular files are always readable and never get to the runtime, which would refuse them.
    async fn ready(&mut self) {
        while !self.readable() {
            // Made anew for each wait, a registration has no stale readiness to clear. A runtime
            // that watches a descriptor it calls a pipe does so for a terminal or socket as well.
            let watch = rustix::stdio::stdin()
                .try_clone_to_owned()
                .and_then(Receiver::from_owned_fd_unchecked);
            let Ok(watch) = watch else { return };
            if watch.readable().await.is_err() {
                return;
            }
        }
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 || !self.readable() { Ok(Bytes::new()) } else { self.read_some(size) }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        loop {
            self.ready().await;
            let bytes = self.read_some(size)?;
            if size == 0 || !bytes.is_empty() {
                return Ok(bytes);
            }
        }
    }
}

/// Waits until `fd` is ready, or as long as `timeout` says.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, timeout: Option<&Timespec>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    loop {
        match poll(&mut fds, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As an `io::Error` it keeps its number: the guest gets EPIPE for EPIPE.
fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}
