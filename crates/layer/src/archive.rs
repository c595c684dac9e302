//! Tar archives of layers, without times and owners: the same files make the same bytes.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// Writes an archive of one file with the mode 0755, and the folders above it. `size` is the number
/// of bytes that `content` returns.
///
/// # Errors
/// If `content` cannot be read or has another size, or `output` cannot be written.
pub fn write(content: impl Read, size: u64, path: &str, output: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(output);
    let path = relative(path);
    for folder in folders(&path) {
        archive.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, io::empty())?;
    }
    append(&mut archive, &path, 0o755, content, size)?;
    archive.into_inner()?.flush()
}

/// Appends a file.
///
/// # Errors
/// If `content` cannot be read or has another size than `size`, or the archive cannot be written.
pub fn append(
    archive: &mut Builder<impl Write>,
    path: &Path,
    mode: u32,
    content: impl Read,
    size: u64,
) -> io::Result<()> {
    let mut content = Counted { inner: content.take(size), left: size };
    archive.append_data(&mut header(EntryType::Regular, mode, size), path, &mut content)?;
    if content.left == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Returns the header of an entry of root's, of the beginning of the epoch.
#[must_use]
pub fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Returns the path of an archive's entry: without the root, `.` and `..`.
#[must_use]
pub fn relative(path: &str) -> PathBuf {
    let parts = Path::new(path).components();
    parts.filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Returns the folders above a relative path, the outermost first.
#[must_use]
pub fn folders(path: &Path) -> Vec<&Path> {
    let mut folders: Vec<&Path> =
        path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
    folders.reverse();
    folders
}

/// A reader that counts the bytes left of a known size.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(relative("/a/../b/./c"), PathBuf::from("a/b/c"));
        assert_eq!(folders(Path::new("a/b/c")), [Path::new("a"), Path::new("a/b")]);
        assert_eq!(folders(Path::new("c")), [] as [&Path; 0]);
    }

    #[test]
    fn a_content_shorter_than_its_size_is_an_error() {
        let error = write([1, 2].as_slice(), 3, "/a", io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
