//! Records of checks that a file passed, stored under the file's identity.
//!
//! A record is a symbolic link: creating, reading and removing it are one system call each. Its
//! name or target holds the identity, so that a changed or replaced file does not match its record.
//! Only root can write records. A record that cannot be written costs the next start a full check.

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

/// The prefix of a record of a module's digest.
pub(super) const MODULE: &str = "module-";
/// The suffix of a record of a verified code file.
pub(super) const VERIFIED: &str = ".checked";

/// The resolution of a code file's time of last use: within an hour of the recorded use a start
/// writes nothing.
const USE_RESOLUTION: Duration = Duration::from_secs(3600);

/// The identity of a file's content: it differs between two files and before and after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The ctime, which no system call can set.
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

    /// Returns true when the last change is old enough for another one to get another timestamp.
    /// False when the clock was set back since, and for a change before 1970, by a wrong clock.
    fn is_settled(self, settled: Duration) -> bool {
        let (seconds, nanos) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1));
        let (Ok(seconds), Ok(nanos)) = (seconds, nanos) else { return false };
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
    /// Returns the recorded digest of a module.
    pub(super) fn recorded_digest(&self, module: Identity) -> Option<String> {
        let target = fs::read_link(self.module_record(module)).ok()?;
        Some(target.to_str()?.to_owned())
    }

    pub(super) fn record_digest(&self, module: Identity, digest: &str) {
        if module.is_settled(self.settled) {
            // An existing record has the same target. Without a record the next start digests
            // again.
            let _ = symlink(digest, self.module_record(module));
        }
    }

    fn module_record(&self, module: Identity) -> PathBuf {
        self.directory.join(format!("{MODULE}{module}"))
    }

    /// Returns true if this code file passed the full check since boot, and records the use.
    pub(super) fn is_verified(&self, name: &str, code: Identity) -> bool {
        let record = self.code_record(name);
        let Some(expected) = verified(code) else { return false };
        if fs::read_link(&record).ok() != Some(expected.into()) {
            return false;
        }
        let used = fs::symlink_metadata(&record).and_then(|meta| meta.modified()).ok();
        if used.and_then(|used| used.elapsed().ok()).is_none_or(|age| age >= USE_RESOLUTION) {
            let now = TimeSpec::UTIME_NOW;
            // A stale time of use only makes garbage collection remove the file earlier.
            let _ = utimensat(AT_FDCWD, &record, &now, &now, UtimensatFlags::NoFollowSymlink);
        }
        true
    }

    pub(super) fn record_verified(&self, name: &str, code: Identity) {
        if let Some(text) = verified(code).filter(|_| code.is_settled(self.settled)) {
            let record = self.code_record(name);
            // Most often the record does not exist.
            let _ = fs::remove_file(&record);
            // A concurrent start may have written the same record.
            let _ = symlink(text, record);
        }
    }

    /// The path of a code file's record, whose mtime is the time of the file's last use.
    pub(super) fn code_record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{VERIFIED}"))
    }
}

/// The target of a record: the file's identity and the boot id, so that it expires at the next
/// boot.
fn verified(code: Identity) -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned())
    });
    Some(format!("{code}-{}", boot.as_ref()?))
}
