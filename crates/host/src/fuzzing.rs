//! What the fuzz targets call of this crate's insides. No other code uses it.

use std::error::Error;
use std::path::{Path, PathBuf};

use super::mount;
use wherry_protocol::error_text;

/// Parses mount options: the kernel's flags, the directory to mount from, and the filesystem's own options.
#[must_use]
pub fn mount_options(options: &[String]) -> (u64, Option<PathBuf>, String) {
    let parsed = mount::Options::parse(options);
    let (directory, data) = parsed.fit();
    (parsed.flags.bits(), directory, data)
}

/// Makes a directory in a root filesystem.
///
/// # Errors
/// When it cannot be made.
pub fn directory(rootfs: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    mount::directory(rootfs, path, (0, 0))
}

/// Renders what libcontainer said as a sentence.
#[must_use]
pub fn sentence(details: &[String], cwd: &Path) -> Option<String> {
    error_text::sentence(details, cwd)
}
