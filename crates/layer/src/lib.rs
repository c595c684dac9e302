//! Turns a layer of WebAssembly into a tar archive of one file.
//!
//! containerd unpacks tar archives only. It can run a program that converts a layer of another
//! media type ([`main`]), and the crate `oci` converts such layers of images and artifacts with
//! [`convert`] too: both make the same bytes.

pub mod archive;
pub mod framing;
mod program;

use std::io::{self, Read, Seek, SeekFrom, Write};

use framing::{Framing, WasmError};

pub use program::main;

/// The number of bytes that a conversion keeps in memory. A larger layer is kept in a temporary
/// file: the header of a tar archive has the file's size, which a stream shows only at its end.
const IN_MEMORY: usize = 64 << 20;

/// The file of a layer whose media type names none.
pub const DEFAULT_PATH: &str = "/app.wasm";

/// Why a layer cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer is not WebAssembly.
    #[error(transparent)]
    Wasm(#[from] WasmError),
    /// The input cannot be read.
    #[error("cannot read the layer: {0}")]
    Read(#[source] io::Error),
    /// The layer cannot be kept until its size is known.
    #[error("cannot keep the layer in a temporary file: {0}; TMPDIR names another directory")]
    Keep(#[source] io::Error),
    /// The output cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[source] io::Error),
}

/// Reads a WebAssembly binary and writes a tar archive with it as the file `path`. Returns the
/// binary's size in bytes. Nothing is written for an invalid input.
///
/// # Errors
/// [`LayerError`].
pub fn convert(mut input: impl Read, output: impl Write, path: &str) -> Result<u64, LayerError> {
    let mut framing = Framing::default();
    let mut kept = tempfile::spooled_tempfile(IN_MEMORY);
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0_u64;
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LayerError::Read(error)),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        framing.feed(chunk)?;
        kept.write_all(chunk).map_err(LayerError::Keep)?;
        size = size.saturating_add(chunk.len() as u64);
    }
    framing.finish()?;
    kept.seek(SeekFrom::Start(0)).map_err(LayerError::Keep)?;
    archive::write(kept, size, path, output).map_err(LayerError::Write)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0\x00\x02\x01x";

    fn converted(input: &[u8]) -> Result<Vec<u8>, String> {
        let mut output = Vec::new();
        convert(input, &mut output, "/bin/app.wasm").map_err(|error| error.to_string())?;
        Ok(output)
    }

    #[test]
    fn the_archive_contains_the_module_and_its_folders() {
        let bytes = converted(MODULE).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
            found.push((
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
                content,
            ));
        }
        let folder = ("bin".to_owned(), 0o755, Vec::new());
        assert_eq!(found, [folder, ("bin/app.wasm".to_owned(), 0o755, MODULE.to_vec())]);
    }

    #[test]
    fn the_same_module_makes_the_same_archive() {
        assert_eq!(converted(MODULE).unwrap(), converted(MODULE).unwrap());
        assert_eq!(converted(MODULE).unwrap().len() % 512, 0);
    }

    #[test]
    fn a_module_above_the_memory_limit_is_kept_in_a_file() {
        let size = IN_MEMORY as u32 + 1;
        let mut module = b"\0asm\x01\0\0\0\x00".to_vec();
        // The size of the custom section as LEB128, padded to five bytes.
        module.extend(
            (0..5).map(|at| (size >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }),
        );
        module.push(0);
        module.resize(module.len() + size as usize - 1, 7);
        let archive = converted(&module).unwrap();
        assert!(archive.len() > module.len());
        assert!(archive.windows(9).any(|window| window == &module[..9]));
    }

    #[test]
    fn an_invalid_input_writes_nothing() {
        let mut output = Vec::new();
        assert!(convert(&MODULE[..10], &mut output, "/app.wasm").is_err());
        assert!(output.is_empty());
    }
}
