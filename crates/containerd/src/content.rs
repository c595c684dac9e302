//! Reads a blob.

use std::fmt;
use std::io::{self, Read};

use tonic::Streaming;

use crate::{Client, LIMIT, api};

/// A blob that is being read.
pub struct Content {
    client: Client,
    stream: Streaming<api::Content>,
    /// The last piece, and the number of its bytes that were read.
    piece: Vec<u8>,
    done: usize,
}

impl Content {
    pub(crate) fn new(client: Client, stream: Streaming<api::Content>) -> Content {
        Content { client, stream, piece: Vec::new(), done: 0 }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.done == self.piece.len() {
            match self.client.wait(LIMIT, self.stream.message()) {
                None => return Err(io::ErrorKind::TimedOut.into()),
                Some(Err(status)) => return Err(io::Error::other(crate::root(&status))),
                Some(Ok(None)) => return Ok(0),
                Some(Ok(Some(piece))) => (self.piece, self.done) = (piece.data, 0),
            }
        }
        let count = self.piece.get(self.done..).unwrap_or_default().read(buffer)?;
        self.done += count;
        Ok(count)
    }
}
