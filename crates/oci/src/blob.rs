//! Content by its digest, in memory or in a file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wherry_image::Size;

use crate::error::{OciError, Result};

/// The content of a blob.
#[derive(Debug, Clone)]
pub enum Data {
    /// In memory: manifests and configurations.
    Memory(Arc<[u8]>),
    /// A part of a file: layers, which may be large.
    File {
        /// The file.
        file: Arc<File>,
        /// The offset of the first byte.
        offset: u64,
        /// The number of bytes.
        size: u64,
    },
    /// In a store that is read when it is needed.
    Stored {
        /// The store.
        store: Arc<dyn Store>,
        /// The digest.
        digest: String,
        /// The number of bytes.
        size: u64,
    },
}

/// Content that is read when it is needed, such as containerd's.
pub trait Store: fmt::Debug + Send + Sync {
    /// Opens a blob for reading, from an offset on.
    ///
    /// # Errors
    /// If the store lacks it, or does not answer.
    fn open(&self, digest: &str, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

impl Data {
    /// A whole file.
    ///
    /// # Errors
    /// If its size cannot be read.
    pub fn of_file(file: File) -> io::Result<Data> {
        let size = file.metadata()?.len();
        Ok(Data::File { file: Arc::new(file), offset: 0, size })
    }

    /// The number of bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Data::Memory(bytes) => bytes.len() as u64,
            Data::File { size, .. } | Data::Stored { size, .. } => *size,
        }
    }

    /// A reader from the first byte on.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader_from(0)
    }

    /// A reader from an offset on.
    #[must_use]
    pub fn reader_from(&self, offset: u64) -> Reader {
        Reader { data: self.clone(), position: offset, stream: None }
    }

    /// The whole content.
    ///
    /// # Errors
    /// If it cannot be read, or has more than `max` bytes. `name` is the content's name in errors.
    pub fn bytes(&self, kind: &'static str, name: &str, max: u64) -> Result<Vec<u8>> {
        if self.size() > max {
            let (size, max) = (Size(self.size()), Size(max));
            return Err(OciError::TooLarge { kind, digest: name.to_owned(), size, max });
        }
        let mut bytes = Vec::new();
        self.reader()
            .read_to_end(&mut bytes)
            .map_err(|source| OciError::Blob { digest: name.to_owned(), source })?;
        Ok(bytes)
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::Memory(bytes.into())
    }
}

/// A reader of a blob. Several can read the same file.
pub struct Reader {
    data: Data,
    position: u64,
    /// The open blob of a store.
    stream: Option<Box<dyn Read + Send>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.data {
            Data::Memory(bytes) => {
                let at = usize::try_from(self.position).unwrap_or(usize::MAX);
                bytes.get(at..).unwrap_or_default().read(buffer)?
            }
            Data::File { file, offset, size } => {
                let left = size.saturating_sub(self.position);
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let buffer = buffer.get_mut(..wanted).unwrap_or_default();
                file.read_at(buffer, offset.saturating_add(self.position))?
            }
            Data::Stored { store, digest, .. } => {
                let stream = match &mut self.stream {
                    Some(stream) => stream,
                    None => self.stream.insert(store.open(digest, self.position)?),
                };
                stream.read(buffer)?
            }
        };
        self.position += count as u64;
        Ok(count)
    }
}

/// A temporary file that is digested while it is written.
#[derive(Debug)]
pub struct Spool {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Spool {
    /// Creates an empty one in the directory for temporary files.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new() -> Result<Spool> {
        let file = tempfile::tempfile().map_err(OciError::Temporary)?;
        Ok(Spool { file, hash: Sha256::new(), size: 0 })
    }

    /// Returns the digest and the content.
    #[must_use]
    pub fn finish(self) -> (String, Data) {
        let data = Data::File { file: Arc::new(self.file), offset: 0, size: self.size };
        (text(self.hash), data)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Returns the digest of a memory, like `sha256:` and 64 digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    text(Sha256::new_with_prefix(bytes))
}

/// Returns the digest of all that a reader returns.
///
/// # Errors
/// If it cannot be read.
pub fn digest_of(mut reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut reader, &mut hash)?;
    Ok(text(hash))
}

/// Returns the text of a digest.
pub(crate) fn text(hash: Sha256) -> String {
    let mut text = "sha256:".to_owned();
    for byte in hash.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_read_within_its_bounds() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let data = Data::File { file: Arc::new(file), offset: 2, size: 5 };
        assert_eq!(data.bytes("file", "f", 5).unwrap(), b"23456");
        assert_eq!(
            data.bytes("file", "f", 4).unwrap_err().to_string(),
            "file f has 5 bytes, more than the 4 bytes that are accepted"
        );
    }

    #[test]
    fn a_spool_has_the_digest_of_its_content() {
        let mut spool = Spool::new().unwrap();
        spool.write_all(b"abc").unwrap();
        let (digest_of_spool, data) = spool.finish();
        assert_eq!(digest_of_spool, digest(b"abc"));
        assert_eq!(digest_of(data.reader()).unwrap(), digest(b"abc"));
    }
}
