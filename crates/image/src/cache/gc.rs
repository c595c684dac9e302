//! Garbage collection: lists the cache's entries and removes old ones.
//!
//! A guest that has mapped a code file keeps the mapping after the file's removal. So only the time
//! of last use decides; the collector need not know the running guests.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::failure::{FAILED, FAILURE_LIFETIME};
use super::file::WriteLock;
use super::verified::{MODULE, VERIFIED};
use super::{ASIDE, Cache};

/// How long code of another version of this engine is kept after its last use: during an upgrade
/// the shims of the old version still start containers of their pods.
const OTHER_VERSION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a module's record is kept. The module's next start writes it again.
const RECORD_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Hexadecimal digits of a SHA-256.
const DIGEST: usize = 64;

/// The compiled code of one module for one engine and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The SHA-256 of the wasm, in hexadecimal.
    pub digest: String,
    /// The engine.
    pub engine: String,
    /// The engine's compile key.
    pub key: String,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The time of the last use, with a resolution of an hour.
    pub used: SystemTime,
}

impl Entry {
    fn name(&self) -> String {
        format!("{}-{}-{}", self.digest, self.engine, self.key)
    }

    /// The time since the last use; zero if the clock was set back since.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.used.elapsed().unwrap_or_default()
    }
}

/// The result of [`Cache::prune`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of removed entries.
    pub entries: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Cache {
    /// Lists the code of all engines, the most recently used first. A missing directory is empty.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let names = match fs::read_dir(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries: Vec<Entry> =
            names.flatten().filter_map(|file| self.entry(file.file_name().to_str()?)).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        Ok(entries)
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        let (digest, rest) = name.split_at_checked(DIGEST)?;
        let (engine, key) = rest.strip_prefix('-')?.split_once('-')?;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_code = ![VERIFIED, FAILED, ASIDE].iter().any(|ending| key.ends_with(ending));
        if !digest.bytes().all(hexadecimal) || !is_code {
            return None;
        }
        let meta = fs::symlink_metadata(self.directory.join(name)).ok()?;
        let made = meta.modified().ok()?;
        let used = fs::symlink_metadata(self.code_record(name)).and_then(|meta| meta.modified());
        Some(Entry {
            digest: digest.to_owned(),
            engine: engine.to_owned(),
            key: key.to_owned(),
            bytes: meta.len(),
            used: used.map_or(made, |used| used.max(made)),
        })
    }

    /// Removes code and records of failures that are unused for at least `unused_for`.
    ///
    /// # Errors
    /// When the directory cannot be read or a code file cannot be removed.
    pub fn prune(&self, unused_for: Duration) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        for entry in self.entries()?.iter().filter(|entry| entry.age() >= unused_for) {
            self.remove(entry)?;
            pruned.entries += 1;
            pruned.bytes += entry.bytes;
        }
        self.remove_leftovers(unused_for.min(FAILURE_LIFETIME));
        Ok(pruned)
    }

    fn remove(&self, entry: &Entry) -> io::Result<()> {
        let name = entry.name();
        fs::remove_file(self.directory.join(&name))?;
        // A leftover record goes with the next collection.
        let _ = fs::remove_file(self.code_record(&name));
        Ok(())
    }

    /// Collects garbage after the code `new` was added.
    ///
    /// Removes code of other versions of this engine after [`OTHER_VERSION_LIFETIME`], then the
    /// least recently used code until the rest fits the limit.
    pub(super) fn gc(&self, new: &str) {
        let Ok(entries) = self.entries() else { return };
        let version = new.get(DIGEST + 1..).unwrap_or_default();
        let (mut total, mut full) = (0, false);
        for entry in entries {
            let other = entry.engine == self.engine && !entry.name().ends_with(version);
            if other && entry.age() >= OTHER_VERSION_LIFETIME {
                // Another process may have removed it first.
                let _ = self.remove(&entry);
                continue;
            }
            full |= entry.bytes <= self.limit && total + entry.bytes > self.limit;
            // Code above the limit does not displace other code.
            if full || entry.bytes > self.limit {
                // Another process may have removed it first.
                let _ = self.remove(&entry);
            } else {
                total += entry.bytes;
            }
        }
        self.remove_leftovers(FAILURE_LIFETIME);
    }

    /// Removes records without code, files that a dead process left, and records of failures older
    /// than `failures`.
    fn remove_leftovers(&self, failures: Duration) {
        let Ok(entries) = self.entries() else { return };
        let codes: HashSet<String> = entries.iter().map(Entry::name).collect();
        let digests: HashSet<&str> = entries.iter().map(|entry| entry.digest.as_str()).collect();
        for file in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let (name, path) = (file.file_name(), file.path());
            let Some(name) = name.to_str() else { continue };
            // Another process may remove the same file at the same time, hence each `let _` below.
            if let Some(code) = name.strip_suffix(VERIFIED) {
                if !codes.contains(code) {
                    // Another process may have removed it first.
                    let _ = fs::remove_file(&path);
                }
            } else if name.starts_with(MODULE) {
                let known = fs::read_link(&path)
                    .is_ok_and(|digest| digest.to_str().is_some_and(|d| digests.contains(d)));
                if !known || is_older(&path, RECORD_LIFETIME) {
                    // Another process may have removed it first.
                    let _ = fs::remove_file(&path);
                }
            } else if name.ends_with(FAILED) {
                if is_older(&path, failures) {
                    // Another process may have removed it first.
                    let _ = fs::remove_file(&path);
                }
            } else if name.ends_with(ASIDE) {
                // Dropping the lock removes the file.
                drop(WriteLock::try_lock_abandoned(&path));
            }
        }
    }
}

fn is_older(path: &Path, age: Duration) -> bool {
    fs::symlink_metadata(path)
        .and_then(|meta| meta.modified())
        .is_ok_and(|made| made.elapsed().is_ok_and(|elapsed| elapsed >= age))
}
