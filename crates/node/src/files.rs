//! Reading, replacing and removing the host's files.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::NodeError;

/// The suffix of a file that is being written.
const PART: &str = ".wherry-new";

/// The content of a file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, NodeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(NodeError::file("reading", path)(e)),
    }
}

/// Replaces a file by rename, so that a reader sees the old content or the new one, and a running
/// program keeps the old file. Mode and owner are those of the old file; those of a new file are
/// `mode` and this process's user.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), NodeError> {
    let part = part(path);
    write_part(path, &part, bytes, mode).map_err(|e| {
        // The caller gets the error of the write.
        let _ = fs::remove_file(&part);
        NodeError::file("writing", path)(e)
    })
}

fn write_part(path: &Path, part: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = File::create(part)?;
    file.write_all(bytes)?;
    let mode = match fs::metadata(path) {
        Ok(old) => {
            if (old.uid(), old.gid()) != (0, 0) {
                chown(part, Some(old.uid()), Some(old.gid()))?;
            }
            old.mode() & 0o7777
        }
        Err(_) => mode,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(part, path)?;
    // The name must survive a power failure too, or containerd starts with half of an installation.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The name of the incomplete file, beside the real one: a rename does not leave its filesystem.
fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(PART);
    path.with_file_name(name)
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(NodeError::file("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Creates a directory and its parents. Returns the created ones, the outermost first.
pub(crate) fn make_dir(path: &Path) -> Result<Vec<PathBuf>, NodeError> {
    let missing: Vec<_> =
        path.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
    fs::create_dir_all(path).map_err(NodeError::file("making the directory", path))?;
    Ok(missing.into_iter().rev().collect())
}

/// Checks that a file can be created in a directory, or in its closest existing parent.
pub(crate) fn can_write(folder: &Path) -> std::io::Result<()> {
    let made = folder.ancestors().find(|above| above.exists()).map(Path::to_owned);
    let probe = made.unwrap_or_else(|| folder.to_owned()).join(format!("probe{PART}"));
    File::create(&probe)?;
    fs::remove_file(&probe)
}

/// The digest of a file's content, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_readers_keep_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut reader = File::open(&path).unwrap();
        replace(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let mut old = String::new();
        std::io::Read::read_to_string(&mut reader, &mut old).unwrap();
        assert_eq!(old, "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn made_directories_are_named_from_the_outside_in() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().join("a"), dir.path().join("a/b"));
        assert_eq!(make_dir(&inner).unwrap(), [outer, inner.clone()]);
        assert!(make_dir(&inner).unwrap().is_empty());
    }
}
