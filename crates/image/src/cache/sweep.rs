//! What is in the cache, and what goes from it.
//!
//! Code that is in use may go at any time: whoever has mapped it keeps it. So nothing is asked but
//! when it was last used.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::failure::{FAILED, REMEMBERED};
use super::file::Turn;
use super::memo::{CHECKED, MODULE};
use super::{ASIDE, Cache};

/// How long code of another version of this engine stays after its last use: during an upgrade the
/// old version's shims still start containers of their pods.
const OTHER_VERSIONS: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a module's record stays. It is made anew at its next start.
const RECORDS: Duration = Duration::from_secs(30 * 24 * 3600);

/// Hexadecimal digits of a SHA-256.
const DIGEST: usize = 64;

/// One module's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The SHA-256 of the wasm, in hexadecimal.
    pub digest: String,
    /// The engine that it is for.
    pub engine: String,
    /// That engine's compile key.
    pub key: String,
    /// The size of the file.
    pub bytes: u64,
    /// When it was last used, to the hour.
    pub used: SystemTime,
}

impl Entry {
    fn name(&self) -> String {
        format!("{}-{}-{}", self.digest, self.engine, self.key)
    }

    /// How long ago it was last used.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.used.elapsed().unwrap_or_default()
    }
}

/// What [`Cache::prune`] has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of modules' codes.
    pub entries: usize,
    /// Their size.
    pub bytes: u64,
}

impl Cache {
    /// All code, of all engines, the last used first. Nothing, if there is no directory.
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
        let is_code = ![CHECKED, FAILED, ASIDE].iter().any(|ending| key.ends_with(ending));
        if !digest.bytes().all(hexadecimal) || !is_code {
            return None;
        }
        let meta = fs::symlink_metadata(self.directory.join(name)).ok()?;
        let made = meta.modified().ok()?;
        let noted = fs::symlink_metadata(self.code_record(name)).and_then(|meta| meta.modified());
        Some(Entry {
            digest: digest.to_owned(),
            engine: engine.to_owned(),
            key: key.to_owned(),
            bytes: meta.len(),
            used: noted.map_or(made, |noted| noted.max(made)),
        })
    }

    /// Removes code that was not used for this long, and what is remembered of failures that are as old.
    ///
    /// # Errors
    /// When the directory cannot be read, or code in it not be removed.
    pub fn prune(&self, unused_for: Duration) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        for entry in self.entries()?.iter().filter(|entry| entry.age() >= unused_for) {
            self.remove(entry)?;
            pruned.entries += 1;
            pruned.bytes += entry.bytes;
        }
        self.remove_remains(unused_for.min(REMEMBERED));
        Ok(pruned)
    }

    fn remove(&self, entry: &Entry) -> io::Result<()> {
        let name = entry.name();
        fs::remove_file(self.directory.join(&name))?;
        let _ = fs::remove_file(self.code_record(&name));
        Ok(())
    }

    /// Removes what need not stay, after the code `new` was added: of other versions of this engine what
    /// nobody has used lately, and what was not used for longest until the rest is within bounds.
    pub(super) fn sweep(&self, new: &str) {
        let Ok(entries) = self.entries() else { return };
        let version = new.get(DIGEST + 1..).unwrap_or_default();
        let (mut total, mut full) = (0, false);
        for entry in entries {
            let other = entry.engine == self.engine && !entry.name().ends_with(version);
            if other && entry.age() >= OTHER_VERSIONS {
                let _ = self.remove(&entry);
                continue;
            }
            full |= entry.bytes <= self.limit && total + entry.bytes > self.limit;
            // What can never fit takes nobody's place.
            if full || entry.bytes > self.limit {
                // Another may have been here first.
                let _ = self.remove(&entry);
            } else {
                total += entry.bytes;
            }
        }
        self.remove_remains(REMEMBERED);
    }

    /// Removes what belongs to no code: records, and what a process that died has left. Failures are remembered for as long
    /// as `failures`.
    fn remove_remains(&self, failures: Duration) {
        let Ok(entries) = self.entries() else { return };
        let codes: HashSet<String> = entries.iter().map(Entry::name).collect();
        let digests: HashSet<&str> = entries.iter().map(|entry| entry.digest.as_str()).collect();
        for file in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let (name, path) = (file.file_name(), file.path());
            let Some(name) = name.to_str() else { continue };
            if let Some(code) = name.strip_suffix(CHECKED) {
                if !codes.contains(code) {
                    let _ = fs::remove_file(&path);
                }
            } else if name.starts_with(MODULE) {
                let known = fs::read_link(&path)
                    .is_ok_and(|digest| digest.to_str().is_some_and(|d| digests.contains(d)));
                if !known || is_older(&path, RECORDS) {
                    let _ = fs::remove_file(&path);
                }
            } else if name.ends_with(FAILED) {
                if is_older(&path, failures) {
                    let _ = fs::remove_file(&path);
                }
            } else if name.ends_with(ASIDE) {
                // Its end takes the file away.
                drop(Turn::abandoned(&path));
            }
        }
    }
}

fn is_older(path: &Path, age: Duration) -> bool {
    fs::symlink_metadata(path)
        .and_then(|meta| meta.modified())
        .is_ok_and(|made| made.elapsed().is_ok_and(|elapsed| elapsed >= age))
}
