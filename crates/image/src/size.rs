//! Sizes in bytes: their text, and the size limit of a module.

use std::fmt;
use std::fs::File;
use std::io;

/// The default size limit of a module, in bytes. The largest modules in use are language runtimes
/// of some hundred megabytes.
pub const MODULE_MAX: u64 = 1 << 30;

/// A number of bytes, displayed with a decimal unit and one digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "one digit is shown")]
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.1} GB", bytes / 1e9),
            _ => write!(f, "{:.1} TB", bytes / 1e12),
        }
    }
}

/// An error of [`check_size`].
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// The module exceeds the limit.
    #[error("the module has {bytes}, more than the {max} that WHERRY_MODULE_SIZE allows")]
    TooLarge {
        /// The module's size.
        bytes: Size,
        /// The limit.
        max: Size,
    },
    /// The module's size could not be read.
    #[error("cannot read the module: {0}")]
    Read(#[source] io::Error),
}

/// Returns a module's size in bytes, before the module is read whole.
///
/// A sparse file can have terabytes, and reading it takes as long as reading a full one.
///
/// # Errors
/// [`SizeError::TooLarge`] if the size exceeds `max`.
pub fn check_size(module: &File, max: u64) -> Result<u64, SizeError> {
    let bytes = module.metadata().map_err(SizeError::Read)?.len();
    if bytes > max {
        return Err(SizeError::TooLarge { bytes: Size(bytes), max: Size(max) });
    }
    Ok(bytes)
}

/// Reads a whole file from its start, independently of its offset.
///
/// # Errors
/// If it cannot be read, or does not fit into memory.
pub fn read_all(file: &File) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| too_large())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| too_large())?;
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_one_digit() {
        let shown = [999, 1_500, 2_000_000, 1 << 30, 1 << 42].map(|bytes| Size(bytes).to_string());
        assert_eq!(shown, ["999 bytes", "1.5 kB", "2.0 MB", "1.1 GB", "4.4 TB"]);
    }

    #[test]
    fn a_module_of_terabytes_is_refused_without_being_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 42).unwrap();
        assert_eq!(
            check_size(&file, MODULE_MAX).unwrap_err().to_string(),
            "the module has 4.4 TB, more than the 1.1 GB that WHERRY_MODULE_SIZE allows"
        );
        assert_eq!(check_size(&file, 1 << 42).unwrap(), 1 << 42);
    }
}
