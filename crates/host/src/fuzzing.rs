//! The internals of this crate that the fuzz targets call. No other code uses this module.

use std::path::{Path, PathBuf};

use wherry_protocol::error_text;

use crate::mount;
use crate::mount_options::Options;

pub use crate::mount::DirectoryError;

/// Parses mount options: the kernel's flags, the working directory of the mount, and the data of
/// the filesystem.
#[must_use]
pub fn mount_options(options: &[String]) -> (u64, Option<PathBuf>, String) {
    let parsed = Options::parse(options);
    let (directory, data) = parsed.fit();
    (parsed.flags.bits(), directory, data)
}

/// Creates a directory in a root filesystem.
///
/// # Errors
/// If it cannot be created.
pub fn directory(rootfs: &Path, path: &Path) -> Result<(), DirectoryError> {
    mount::create_directory(rootfs, path, (0, 0))
}

/// Renders the errors that libcontainer logged as a sentence.
#[must_use]
pub fn sentence(details: &[String], cwd: &Path) -> Option<String> {
    error_text::sentence(details, cwd)
}
