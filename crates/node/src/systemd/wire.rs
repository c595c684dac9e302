//! The D-Bus wire format for calls with strings, and answers with strings, paths or a number. See
//! the D-Bus specification, "Message Protocol".

use std::num::TryFromIntError;

/// The length of the start of a message, before the array of header fields. It contains the length
/// of the rest.
pub(super) const FIXED: usize = 16;
/// The maximum length of an answer. The specification's own, 128 MiB, is far above any answer to
/// our calls.
const MESSAGE_MAX: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// The codes of header fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The serial number of the call that it answers; 0 for a signal.
    pub(super) to: u32,
    /// The name of the error, if it is one.
    pub(super) error: Option<String>,
    /// The values of the body: strings, paths, and numbers as text.
    pub(super) values: Vec<String>,
}

/// Encodes a call whose arguments are strings. Fails if a length does not fit into its field.
pub(super) fn call(
    serial: u32,
    destination: Option<&str>,
    path: &str,
    interface: &str,
    member: &str,
    args: &[&str],
) -> Result<Vec<u8>, TryFromIntError> {
    let mut body = Vec::new();
    for arg in args {
        string(&mut body, arg)?;
    }
    let mut fields = Vec::new();
    let mut add = |code: u8, kind: u8, value: &str| {
        align(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        if kind == b'g' { signature(&mut fields, value) } else { string(&mut fields, value) }
    };
    add(field::PATH, b'o', path)?;
    add(field::INTERFACE, b's', interface)?;
    add(field::MEMBER, b's', member)?;
    if let Some(destination) = destination {
        add(field::DESTINATION, b's', destination)?;
    }
    if !args.is_empty() {
        add(field::SIGNATURE, b'g', &"s".repeat(args.len()))?;
    }
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    message.extend(length(body.len())?);
    message.extend(serial.to_le_bytes());
    message.extend(length(fields.len())?);
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    Ok(message)
}

/// Returns the number of bytes that follow the first [`FIXED`] ones.
pub(super) fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
    let mut reader = Reader { bytes: fixed, at: 4, little: fixed.first() == Some(&b'l') };
    let body = reader.number()?;
    reader.number()?;
    let fields = reader.number()?.checked_next_multiple_of(8)?;
    Some(body.checked_add(fields)? as usize).filter(|rest| *rest <= MESSAGE_MAX)
}

/// Decodes an answer, or a signal, which answers nothing.
pub(super) fn answer(message: &[u8]) -> Option<Answer> {
    let mut reader = Reader { bytes: message, at: 12, little: message.first() == Some(&b'l') };
    let kind = *message.get(1)?;
    let end = reader.number()? as usize + FIXED;
    let mut found = Answer { to: 0, error: None, values: Vec::new() };
    let mut body = String::new();
    reader.at = FIXED;
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let of = reader.signature()?;
        match (code, of.as_str()) {
            (field::REPLY_SERIAL, "u") => found.to = reader.number()?,
            (field::ERROR_NAME, "s") => found.error = Some(reader.string()?),
            (field::SIGNATURE, "g") => body = reader.signature()?,
            (_, kinds) => drop(reader.values(kinds)?),
        }
    }
    if kind != METHOD_RETURN && kind != ERROR {
        return Some(Answer { to: 0, error: None, values: Vec::new() });
    }
    reader.at = end.next_multiple_of(8);
    found.values = reader.values(&body)?;
    Some(found)
}

fn length(length: usize) -> Result<[u8; 4], TryFromIntError> {
    Ok(u32::try_from(length)?.to_le_bytes())
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn string(bytes: &mut Vec<u8>, text: &str) -> Result<(), TryFromIntError> {
    align(bytes, 4);
    bytes.extend(length(text.len())?);
    bytes.extend(text.as_bytes());
    bytes.push(0);
    Ok(())
}

fn signature(bytes: &mut Vec<u8>, text: &str) -> Result<(), TryFromIntError> {
    bytes.push(u8::try_from(text.len())?);
    bytes.extend(text.as_bytes());
    bytes.push(0);
    Ok(())
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    little: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let little = self.little;
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn long(&mut self) -> Option<u64> {
        self.align(8);
        let little = self.little;
        let bytes: [u8; 8] = self.take(8)?.try_into().ok()?;
        Some(if little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }

    fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    /// Decodes the values of these types, in order. `None` for a type that is not implemented.
    fn values(&mut self, kinds: &str) -> Option<Vec<String>> {
        let mut values = Vec::new();
        let mut kinds = kinds.chars();
        while let Some(kind) = kinds.next() {
            match kind {
                's' | 'o' => values.push(self.string()?),
                'g' => values.push(self.signature()?),
                'u' | 'i' => values.push(self.number()?.to_string()),
                't' | 'x' => values.push(self.long()?.to_string()),
                'v' => {
                    let inner = self.signature()?;
                    values.extend(self.values(&inner)?);
                }
                'a' if kinds.next() == Some('s') => {
                    let end = self.number()? as usize + self.at;
                    while self.at < end {
                        values.push(self.string()?);
                    }
                }
                _ => return None,
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's rules by hand: little-endian, fields aligned to 8.
    #[test]
    fn a_call_is_encoded_as_the_specification_says() {
        let bytes = call(7, Some("d.x"), "/p", "i.f", "Go", &["a"]).unwrap();
        let expected: &[u8] = b"l\x01\x00\x01\x06\x00\x00\x00\x07\x00\x00\x00\x47\x00\x00\x00\
            \x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00\
            \x02\x01s\x00\x03\x00\x00\x00i.f\x00\x00\x00\x00\x00\
            \x03\x01s\x00\x02\x00\x00\x00Go\x00\x00\x00\x00\x00\x00\
            \x06\x01s\x00\x03\x00\x00\x00d.x\x00\x00\x00\x00\x00\
            \x08\x01g\x00\x01s\x00\x00\
            \x01\x00\x00\x00a\x00";
        assert_eq!(bytes, expected);
    }

    /// An answer: reply to 7, a variant with an array of two strings.
    #[test]
    fn an_answer_is_decoded() {
        let mut message = vec![b'l', METHOD_RETURN, 1, 1];
        let body: &[u8] =
            b"\x02as\x00\x0e\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x01\x00\x00\x00b\x00";
        message.extend(length(body.len()).unwrap());
        message.extend(9_u32.to_le_bytes());
        let fields: &[u8] = b"\x05\x01u\x00\x07\x00\x00\x00\x08\x01g\x00\x01v\x00";
        message.extend(length(fields.len()).unwrap());
        message.extend(fields);
        align(&mut message, 8);
        message.extend(body);
        let fixed: [u8; FIXED] = message[..FIXED].try_into().unwrap();
        assert_eq!(rest(&fixed), Some(message.len() - FIXED));
        let found = answer(&message).unwrap();
        assert_eq!(found, Answer { to: 7, error: None, values: vec!["a".into(), "b".into()] });
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let mut fixed = [0_u8; FIXED];
        fixed[0] = b'l';
        fixed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(rest(&fixed), None);
        assert_eq!(answer(b"l\x02\x00\x01"), None);
    }
}
