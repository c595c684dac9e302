//! What was found out about a file, remembered of its identity.
//!
//! A record is a symbolic link: made, read and replaced whole, in one call each. Its name or target holds
//! the identity, so that a record of a file that was changed or replaced is simply not found.
//! Records are hints that only root can write; one that cannot be kept costs the next start time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::Cache;

/// Begins the name of a record of a module.
pub(super) const MODULE: &str = "module-";
/// Ends the name of a record of a code file.
pub(super) const CHECKED: &str = ".checked";

/// A use within this time of the last one that was noted is not noted: starts write nothing.
const NOTED: Duration = Duration::from_secs(3600);

/// What tells a file from every other, and from itself before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Nobody can set this one.
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Identity> {
        let meta = file.metadata()?;
        Ok(Identity {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether the last change is so long ago that another would have another time. Not if the clock
    /// was set back since.
    fn is_settled(self, settled: Duration) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        let nanos = u32::try_from(self.changed.1).unwrap_or_default();
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age >= settled)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Identity { device, inode, size, modified, changed } = self;
        let (modified, changed) = (nanoseconds(*modified), nanoseconds(*changed));
        write!(f, "{device:x}-{inode:x}-{size:x}-{modified:x}-{changed:x}")
    }
}

fn nanoseconds((seconds, nanos): (i64, i64)) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

impl Cache {
    /// The digest of the module that this file is, if it is known.
    pub(super) fn recall(&self, module: Identity) -> Option<String> {
        let target = fs::read_link(self.module_record(module)).ok()?;
        Some(target.to_str()?.to_owned())
    }

    pub(super) fn remember(&self, module: Identity, digest: &str) {
        if module.is_settled(self.settled) {
            // One that is there says the same.
            let _ = symlink(digest, self.module_record(module));
        }
    }

    fn module_record(&self, module: Identity) -> PathBuf {
        self.directory.join(format!("{MODULE}{module}"))
    }

    /// Whether this code file was found whole since the machine was booted. Notes the use.
    pub(super) fn was_checked(&self, name: &str, code: Identity) -> bool {
        let record = self.code_record(name);
        let Some(expected) = checked(code) else { return false };
        if fs::read_link(&record).ok() != Some(expected.into()) {
            return false;
        }
        let noted = fs::symlink_metadata(&record).and_then(|meta| meta.modified()).ok();
        if noted.and_then(|noted| noted.elapsed().ok()).is_none_or(|age| age >= NOTED) {
            let now = TimeSpec::UTIME_NOW;
            let _ = utimensat(AT_FDCWD, &record, &now, &now, UtimensatFlags::NoFollowSymlink);
        }
        true
    }

    pub(super) fn mark_checked(&self, name: &str, code: Identity) {
        if let Some(text) = checked(code).filter(|_| code.is_settled(self.settled)) {
            let record = self.code_record(name);
            let _ = fs::remove_file(&record);
            // Where another start was faster, it wrote the same.
            let _ = symlink(text, record);
        }
    }

    /// The record of a code file. Its time is that of the file's last use.
    pub(super) fn code_record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{CHECKED}"))
    }
}

/// What is written down of a whole file. It holds until the next boot.
fn checked(code: Identity) -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned())
    });
    Some(format!("{code}-{}", boot.as_ref()?))
}
