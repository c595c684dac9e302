//! The standard output and error of a request: whole lines.
//!
//! Many requests write to the same descriptor. Each has a buffer, from which complete lines are
//! written at once.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::stdio::{CHUNK, Output, failed};

/// The standard output or error of one request.
#[derive(Clone)]
pub(super) struct Lines {
    to: Output,
    buffer: Arc<Mutex<Vec<u8>>>,
}

impl Lines {
    pub(super) fn new(to: Output) -> Lines {
        Lines { to, buffer: Arc::default() }
    }

    /// Writes the rest, and completes its line.
    pub(super) fn finish(&self) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.is_empty() {
            return;
        }
        buffer.push(b'\n');
        // The log may be closed, as for every process.
        let _ = self.to.write_all(&buffer);
        buffer.clear();
    }

    fn add(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.extend_from_slice(bytes);
        let complete = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => buffer.len() - (bytes.len() - 1 - last),
            // A longer line is divided: it is memory of this process.
            None if buffer.len() >= CHUNK => buffer.len(),
            None => return Ok(()),
        };
        let written = self.to.write_all(buffer.get(..complete).unwrap_or_default());
        buffer.drain(..complete);
        written
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        self.to.is_terminal()
    }
}

impl StdoutStream for Lines {
    /// Used by WASI 0.3 only, which this build does not include.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes).map_err(failed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}
