//! The framing of a WebAssembly binary: its header, and the sizes of its sections.
//!
//! A module and a component have the same framing. A walk over it finds another format, and a
//! binary that was cut off, without decoding a section and at the speed of memory.

/// Why bytes are not a whole WebAssembly binary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WasmError {
    /// The input has no bytes.
    #[error("empty, not WebAssembly")]
    Empty,
    /// The bytes have another format.
    #[error("not WebAssembly but {0}")]
    Format(&'static str),
    /// The version in the header is unknown.
    #[error(
        "version {0:#x} of WebAssembly's binary format is neither a module's nor a component's"
    )]
    Version(u32),
    /// A section's size is malformed.
    #[error("invalid WebAssembly: the size of the section at offset {0:#x} is malformed")]
    Size(u64),
    /// The bytes end inside the header or a section.
    #[error("cut off: at least {missing} more bytes belong after offset {offset:#x}")]
    CutOff {
        /// The number of bytes so far.
        offset: u64,
        /// The least number of bytes that are missing.
        missing: u64,
    },
}

/// The kind of a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A core module.
    Module,
    /// A component.
    Component,
}

/// The number of bytes in which other formats are searched: a tar archive has its magic at 257.
const PROBE: usize = 512;
/// The size of the header: magic and version.
const HEADER: usize = 8;
/// The most bytes of a section's size.
const SIZE_BYTES: u32 = 5;

/// A walk over a binary that arrives in pieces.
#[derive(Debug, Default)]
pub struct Framing {
    /// The first bytes.
    head: Vec<u8>,
    /// The number of bytes so far.
    offset: u64,
    state: State,
    kind: Option<Kind>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    /// Before a section's id, where the binary may end.
    Id,
    /// Inside a section's size.
    Size { start: u64, value: u64, bytes: u32 },
    /// Inside a section.
    Body { left: u64 },
}

impl Framing {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`WasmError`], as soon as the bytes cannot be a WebAssembly binary.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), WasmError> {
        if matches!(self.state, State::Header) {
            let wanted = PROBE.saturating_sub(self.head.len()).min(bytes.len());
            let (head, _) = bytes.split_at(wanted);
            let before = self.head.len();
            self.head.extend_from_slice(head);
            if self.head.len() < HEADER {
                self.offset += bytes.len() as u64;
                return Ok(());
            }
            if !self.head.starts_with(b"\0asm") {
                // More bytes name the format better.
                self.offset += bytes.len() as u64;
                if self.head.len() < PROBE {
                    return Ok(());
                }
                return Err(WasmError::Format(format(&self.head)));
            }
            self.kind = Some(kind(&self.head)?);
            self.state = State::Id;
            let rest = HEADER.saturating_sub(before);
            self.offset += rest as u64;
            bytes = bytes.get(rest..).unwrap_or_default();
        }
        self.sections(bytes)
    }

    fn sections(&mut self, mut bytes: &[u8]) -> Result<(), WasmError> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Body { left } => {
                    let count = (*left).min(bytes.len() as u64);
                    *left -= count;
                    self.offset += count;
                    let done = *left == 0;
                    // At most the slice's length, so that the conversion is exact.
                    bytes = bytes.get(count as usize..).unwrap_or_default();
                    if done {
                        self.state = State::Id;
                    }
                    continue;
                }
                State::Size { start, value, bytes: count } => {
                    *value |= u64::from(first & 0x7f) << (7 * *count);
                    *count += 1;
                    if first & 0x80 == 0 {
                        if *value > u64::from(u32::MAX) {
                            return Err(WasmError::Size(*start));
                        }
                        self.state =
                            if *value == 0 { State::Id } else { State::Body { left: *value } };
                    } else if *count == SIZE_BYTES {
                        return Err(WasmError::Size(*start));
                    }
                }
                State::Id | State::Header => {
                    self.state = State::Size { start: self.offset, value: 0, bytes: 0 };
                }
            }
            self.offset += 1;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// [`WasmError`], if the bytes so far are not a whole binary.
    pub fn finish(&self) -> Result<Kind, WasmError> {
        let missing = match (&self.state, self.kind) {
            (State::Id, Some(kind)) => return Ok(kind),
            (State::Body { left }, _) => *left,
            (State::Header, _) if self.head.is_empty() => return Err(WasmError::Empty),
            (State::Header, _)
                if !b"\0asm".starts_with(self.head.get(..4).unwrap_or(&self.head)) =>
            {
                return Err(WasmError::Format(format(&self.head)));
            }
            (State::Header, _) => (HEADER as u64).saturating_sub(self.offset),
            _ => 1,
        };
        Err(WasmError::CutOff { offset: self.offset, missing })
    }
}

fn kind(head: &[u8]) -> Result<Kind, WasmError> {
    match head.get(4..HEADER).and_then(|version| <[u8; 4]>::try_from(version).ok()) {
        Some([1, 0, 0, 0]) => Ok(Kind::Module),
        // The second half is the layer: 1 for a component. Its version is still a draft's.
        Some([_, _, 1, 0]) => Ok(Kind::Component),
        version => Err(WasmError::Version(u32::from_le_bytes(version.unwrap_or_default()))),
    }
}

/// Returns the name of a format by the first bytes of a file.
fn format(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x7f, b'E', b'L', b'F', ..] => "a native executable",
        [b'{' | b'[', ..] => "JSON",
        [b'(', ..] => "the text format of WebAssembly",
        _ if head.get(257..262) == Some(b"ustar") => "a tar archive",
        _ => "a file of an unknown format",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks in pieces of each size: a piece's end must not matter.
    fn walk(bytes: &[u8]) -> Result<Kind, WasmError> {
        let run = |size: usize| {
            let mut framing = Framing::default();
            for piece in bytes.chunks(size.max(1)) {
                framing.feed(piece)?;
            }
            framing.finish()
        };
        let whole = run(bytes.len());
        for size in [1, 3, 7, 8, 9] {
            assert_eq!(run(size), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn modules_and_components_are_whole_binaries() {
        assert_eq!(walk(b"\0asm\x01\0\0\0"), Ok(Kind::Module));
        assert_eq!(walk(b"\0asm\x0d\0\x01\0"), Ok(Kind::Component));
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00\x02\x01x\x01\x80\x00"), Ok(Kind::Module));
    }

    #[test]
    fn a_binary_that_was_cut_off_is_named_with_its_end() {
        let cut = |offset, missing| Err(WasmError::CutOff { offset, missing });
        assert_eq!(walk(b"\0asm"), cut(4, 4));
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00"), cut(9, 1));
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00\x05\x01x"), cut(12, 3));
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00\x80"), cut(10, 1));
        assert_eq!(
            walk(b"\0as").unwrap_err().to_string(),
            "cut off: at least 5 more bytes belong after offset 0x3"
        );
    }

    #[test]
    fn another_format_is_named() {
        let mut tar = vec![b'a'; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(walk(&tar), Err(WasmError::Format("a tar archive")));
        assert_eq!(walk(b"\x1f\x8b\x08"), Err(WasmError::Format("gzip")));
        assert_eq!(walk(b"{}"), Err(WasmError::Format("JSON")));
        assert_eq!(walk(b"(module)"), Err(WasmError::Format("the text format of WebAssembly")));
        assert_eq!(walk(b""), Err(WasmError::Empty));
        assert_eq!(walk(b"\0asm\x02\0\0\0"), Err(WasmError::Version(2)));
    }

    #[test]
    fn a_malformed_size_is_named_with_its_section() {
        let size = Err(WasmError::Size(8));
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\xff\x01"), size);
        assert_eq!(walk(b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\x1f"), size);
    }
}
