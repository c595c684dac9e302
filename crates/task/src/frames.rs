//! The frames of one connection: which requests are not answered yet, and which bytes of them were
//! read.
//!
//! A frame has a header of ten bytes: the length of the payload and the number of the stream, both
//! of four bytes, big-endian; its type; and flags. Reads and writes may split frames at every byte.
//!
//! Specification: `PROTOCOL.md` of containerd/ttrpc.

use std::collections::BTreeMap;

use ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE,
    MessageHeader,
};

/// The frames of one direction.
#[derive(Debug, Default)]
struct Cursor {
    /// The bytes of the header so far.
    header: Vec<u8>,
    /// The number of bytes of the payload that are missing, once the header is complete.
    missing: usize,
}

impl Cursor {
    /// Whether the last frame is complete.
    fn is_between_frames(&self) -> bool {
        self.header.is_empty()
    }

    /// The header of the current frame, once it is complete.
    fn header(&self) -> Option<MessageHeader> {
        (self.header.len() == MESSAGE_HEADER_LENGTH).then(|| MessageHeader::from(&self.header))
    }

    /// Takes bytes up to the end of the current header or frame from `bytes`, and returns them,
    /// with the header of a frame that they complete.
    fn advance<'a>(&mut self, bytes: &mut &'a [u8]) -> (&'a [u8], Option<MessageHeader>) {
        let in_header = self.header.len() < MESSAGE_HEADER_LENGTH;
        let wanted =
            if in_header { MESSAGE_HEADER_LENGTH - self.header.len() } else { self.missing };
        let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
        *bytes = rest;
        if in_header {
            self.header.extend_from_slice(taken);
            if let Some(header) = self.header() {
                self.missing = header.length as usize;
            }
        } else {
            self.missing -= taken.len();
        }
        let complete = self.header().filter(|_| self.missing == 0);
        if complete.is_some() {
            self.header.clear();
        }
        (taken, complete)
    }
}

/// The frames of a connection.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    reads: Cursor,
    /// The bytes of the frame that is being read.
    partial: Vec<u8>,
    /// The requests that are not answered, by their streams: whole frames.
    unanswered: BTreeMap<u32, Vec<u8>>,
    writes: Cursor,
}

impl Frames {
    /// Follows bytes that the server has read.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, complete) = self.reads.advance(&mut bytes);
            if !self.is_discarding() {
                self.partial.extend_from_slice(taken);
            }
            if let Some(header) = complete {
                let frame = std::mem::take(&mut self.partial);
                if header.type_ == MESSAGE_TYPE_REQUEST {
                    // The server refuses a request that is too large.
                    let frame = if is_too_large(header) { Vec::new() } else { frame };
                    self.unanswered.insert(header.stream_id, frame);
                }
            }
        }
    }

    /// Follows bytes that the server has written.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let (_, Some(header)) = self.writes.advance(&mut bytes)
                && header.type_ == MESSAGE_TYPE_RESPONSE
            {
                self.unanswered.remove(&header.stream_id);
            }
        }
    }

    /// Whether the frame that is being read is larger than the server accepts: it discards the
    /// payload, and so do we.
    pub(crate) fn is_discarding(&self) -> bool {
        self.reads.header().is_some_and(is_too_large)
    }

    /// Whether the last response was written as a whole.
    pub(crate) fn is_written(&self) -> bool {
        self.writes.is_between_frames()
    }

    /// The payloads of the requests that are not answered.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &[u8]> {
        self.unanswered.values().map(|frame| frame.get(MESSAGE_HEADER_LENGTH..).unwrap_or_default())
    }

    /// The bytes that another server of this connection must read first: the requests that are not
    /// answered, and the beginning of the next one.
    pub(crate) fn unfinished(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.unanswered.values().flatten().copied().collect();
        bytes.extend_from_slice(&self.partial);
        bytes
    }
}

fn is_too_large(header: MessageHeader) -> bool {
    header.length as usize > MESSAGE_LENGTH_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(stream.to_be_bytes());
        bytes.extend([kind, 0]);
        bytes.extend(payload);
        bytes
    }

    fn request(stream: u32, payload: &[u8]) -> Vec<u8> {
        frame(stream, MESSAGE_TYPE_REQUEST, payload)
    }

    fn response(stream: u32, payload: &[u8]) -> Vec<u8> {
        frame(stream, MESSAGE_TYPE_RESPONSE, payload)
    }

    /// Follows bytes in pieces of this size.
    fn in_pieces(size: usize, bytes: &[u8], mut follow: impl FnMut(&[u8])) {
        bytes.chunks(size).for_each(&mut follow);
    }

    #[test]
    fn requests_are_unanswered_until_their_response_is_written_whatever_the_pieces() {
        let requests = [request(1, b"one"), request(3, b""), request(5, b"three")].concat();
        let responses = [response(3, b"second"), response(1, b"")].concat();
        for size in 1..=requests.len() {
            let mut frames = Frames::default();
            in_pieces(size, &requests, |piece| frames.read(piece));
            assert_eq!(frames.unanswered().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
            assert_eq!(frames.unfinished(), requests, "in pieces of {size}");
            in_pieces(size, &responses, |piece| frames.wrote(piece));
            assert!(frames.is_written());
            assert_eq!(frames.unfinished(), request(5, b"three"), "in pieces of {size}");
        }
    }

    #[test]
    fn the_beginning_of_a_request_is_kept_at_every_byte() {
        let whole = request(1, b"whole");
        let next = request(3, b"next");
        for length in 0..next.len() {
            let mut frames = Frames::default();
            frames.read(&whole);
            in_pieces(1, &next[..length], |piece| frames.read(piece));
            assert_eq!(frames.unfinished(), [&whole[..], &next[..length]].concat(), "{length}");
            assert_eq!(frames.unanswered().count(), 1);
            frames.wrote(&response(1, b"x"));
            assert_eq!(frames.unfinished(), next[..length], "{length}");
            // Another server of the connection gets these bytes, and then the rest.
            let mut other = Frames::default();
            other.read(&frames.unfinished());
            other.read(&next[length..]);
            assert_eq!(other.unfinished(), next);
        }
    }

    #[test]
    fn a_response_is_half_written_at_every_byte_but_the_last() {
        let bytes = response(1, b"answer");
        let mut frames = Frames::default();
        frames.read(&request(1, b"x"));
        for (at, byte) in bytes.iter().enumerate() {
            frames.wrote(&[*byte]);
            let last = at + 1 == bytes.len();
            assert_eq!((frames.is_written(), frames.unanswered().count() == 0), (last, last));
        }
    }

    #[test]
    fn only_requests_wait_for_a_response() {
        let mut frames = Frames::default();
        frames.read(&frame(1, 3, b"data"));
        frames.read(&frame(3, 9, b"unknown"));
        frames.read(&request(5, b"x"));
        frames.wrote(&frame(5, 3, b"data"));
        frames.wrote(&response(7, b"of no request"));
        assert_eq!(frames.unfinished(), request(5, b"x"));
    }

    #[test]
    fn the_payload_of_a_request_that_is_too_large_is_not_kept() {
        let length = MESSAGE_LENGTH_MAX + 1;
        let mut header = request(1, b"");
        header[..4].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        let mut frames = Frames::default();
        frames.read(&header);
        assert!(frames.is_discarding());
        let chunk = vec![0; 1 << 20];
        let mut left = length;
        while left > 0 {
            let size = left.min(chunk.len());
            assert!(frames.is_discarding());
            frames.read(&chunk[..size]);
            left -= size;
        }
        assert!(!frames.is_discarding() && frames.unfinished().is_empty());
        assert_eq!(frames.unanswered().count(), 1, "the refusal is not written yet");
        frames.wrote(&response(1, b"too large"));
        assert_eq!(frames.unanswered().count(), 0);
        frames.read(&request(3, b"next"));
        assert_eq!(frames.unfinished(), request(3, b"next"));
    }
}
