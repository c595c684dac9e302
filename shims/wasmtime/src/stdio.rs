//! The guest's standard streams: this process's descriptors 0, 1 and 2, unbuffered.
//!
//! Wasmtime's own streams use the standard library's line buffer for output, and for input a thread
//! that lives as long as the process.

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

/// The largest read of one call, and the write budget that one call returns, in bytes.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Descriptor 1 or 2. A write blocks the guest's thread until all is written: a slow reader slows
/// the guest, as it slows a native program.
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

    pub(crate) fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.fd(), bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // A process that shares the pipe may have set O_NONBLOCK.
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
    /// Used by WASI 0.3 only, which this build does not include.
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
        // The following read reports an error.
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
    /// Used by WASI 0.3 only, which this build does not include.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(*self)
    }
}

#[async_trait]
impl Pollable for Input {
    /// A regular file is always readable and never reaches tokio, which would refuse it.
    async fn ready(&mut self) {
        while !self.readable() {
            // X
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

/// Waits until `fd` is ready or the timeout expires. Returns whether it is ready.
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

/// Converts an error and keeps its errno: the guest gets EPIPE for EPIPE.
pub(crate) fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}
