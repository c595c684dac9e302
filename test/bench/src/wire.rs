//! The parts of ttrpc and protobuf that a container's life needs.
//!
//! Written by hand, so that neither end of a measurement carries a runtime, threads or reflection:
//! the do-nothing shim must be as fast as possible, and the client that times a shim must not be
//! the larger part of the measured time. Both follow ttrpc's `PROTOCOL.md` and protobuf's
//! "Encoding".

use std::io::{self, ErrorKind, Read, Write};

/// The type of a request frame.
pub const REQUEST: u8 = 1;
/// The type of a response frame.
pub const RESPONSE: u8 = 2;
/// A limit above the size of any message here.
const LENGTH_MAX: usize = 4 << 20;

/// A protobuf message under construction. Empty values are omitted, as in protobuf 3.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty message.
    #[must_use]
    pub fn new() -> Message {
        Message::default()
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Message {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Adds a string.
    #[must_use]
    pub fn text(self, field: u32, value: &str) -> Message {
        if value.is_empty() { self } else { self.bytes(field, value.as_bytes()) }
    }

    /// Adds bytes or a message, even if they are empty.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Message {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Its bytes on the wire.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of a field in a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'m> {
    /// A number.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'m [u8]),
}

/// The fields of a message, up to the first invalid one.
pub fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let tag = take_varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

/// The bytes of a field; empty if it is missing.
pub fn bytes_of(message: &[u8], wanted: u64) -> &[u8] {
    fields(message)
        .find_map(|(field, value)| match value {
            Value::Bytes(bytes) if field == wanted => Some(bytes),
            _ => None,
        })
        .unwrap_or_default()
}

/// The number in a field; 0 if it is missing.
pub fn number_of(message: &[u8], wanted: u64) -> u64 {
    fields(message)
        .find_map(|(field, value)| match value {
            Value::Number(number) if field == wanted => Some(number),
            _ => None,
        })
        .unwrap_or_default()
}

fn take<'m>(rest: &mut &'m [u8], length: usize) -> Option<&'m [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A ttrpc frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The id of the call.
    pub stream: u32,
    /// [`REQUEST`] or [`RESPONSE`].
    pub kind: u8,
    /// The envelope of the request or the response.
    pub envelope: Vec<u8>,
}

impl Frame {
    /// Reads the next frame; none at the end of the connection.
    ///
    /// # Errors
    /// If the connection breaks, or the bytes are not a frame.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; 10];
        match from.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > LENGTH_MAX {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        let mut envelope = vec![0; length];
        from.read_exact(&mut envelope)?;
        Ok(Some(Frame { stream: u32::from_be_bytes([s0, s1, s2, s3]), kind, envelope }))
    }

    /// Writes the frame, in one system call if the kernel accepts all of it.
    ///
    /// # Errors
    /// If the connection breaks, or the content is too long for a frame.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.envelope.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(10 + self.envelope.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&[self.kind, 0]);
        bytes.extend_from_slice(&self.envelope);
        to.write_all(&bytes)
    }

    /// A request of one message.
    #[must_use]
    pub fn request(stream: u32, service: &str, method: &str, message: &Message) -> Frame {
        let envelope = Message::new().text(1, service).text(2, method).bytes(3, message.encoded());
        Frame { stream, kind: REQUEST, envelope: envelope.0 }
    }

    /// The answer to a request.
    #[must_use]
    pub fn response(stream: u32, message: &Message) -> Frame {
        Frame { stream, kind: RESPONSE, envelope: Message::new().bytes(2, message.encoded()).0 }
    }

    /// A request's method.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        bytes_of(&self.envelope, 2)
    }

    /// The message of a response, or the text of an error.
    ///
    /// # Errors
    /// The error of the other side.
    pub fn answer(&self) -> Result<&[u8], String> {
        let status = bytes_of(&self.envelope, 1);
        if number_of(status, 1) != 0 {
            return Err(String::from_utf8_lossy(bytes_of(status, 2)).into_owned());
        }
        Ok(bytes_of(&self.envelope, 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_as_protobuf_has_them() {
        // The examples of protobuf's documentation.
        assert_eq!(Message::new().number(1, 150).encoded(), [0x08, 0x96, 0x01]);
        assert_eq!(
            Message::new().text(2, "testing").encoded(),
            [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]
        );
        assert_eq!(number_of(&[0x08, 0x96, 0x01], 1), 150);
    }

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let asked = Frame::request(7, "a.Service", "Method", &Message::new().number(3, 9));
        let mut wire = Vec::new();
        asked.write(&mut wire).unwrap();
        assert_eq!(wire[..10], [0, 0, 0, wire.len() as u8 - 10, 0, 0, 0, 7, REQUEST, 0]);
        let mut wire = wire.as_slice();
        let read = Frame::read(&mut wire).unwrap().unwrap();
        assert_eq!(read, asked);
        assert_eq!(read.method(), b"Method");
        assert_eq!(number_of(bytes_of(&read.envelope, 3), 3), 9);
        assert_eq!(Frame::read(&mut wire).unwrap(), None);
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        let status = Message::new().number(1, 5).text(2, "no such thing");
        let envelope = Message::new().bytes(1, status.encoded()).0;
        let refused = Frame { stream: 1, kind: RESPONSE, envelope };
        assert_eq!(refused.answer(), Err("no such thing".to_owned()));
        let empty = Frame::response(1, &Message::new());
        assert_eq!(empty.answer(), Ok([].as_slice()));
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        assert_eq!(fields(&[0x08]).count(), 0);
        assert_eq!(fields(&[0x12, 0x07, 0x74]).count(), 0);
        assert_eq!(fields(&[0x08, 0x01, 0x12, 0x07]).count(), 1);
    }
}
