//! Records of failed compilations.
//!
//! Without them a container that restarts in a loop would compile its module in a loop. A record is
//! a symbolic link like those of [`super::verified`]: its name is the code's name, its target holds
//! the conditions and the error text, its mtime is the time of the attempt.
//!
//! Only failures that depend on nothing but the module and the conditions are recorded. A killed or
//! cancelled compiler and a module that changed while it was read are not: one container could
//! cause that for a module that another container uses too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::{Cache, CacheError};

/// The suffix of a record of a failure.
pub(super) const FAILED: &str = ".failed";
/// How long a failure is reported from its record: restarts cost nothing for ten minutes, and a
/// repaired machine recovers without an administrator.
pub(super) const FAILURE_LIFETIME: Duration = Duration::from_secs(600);

/// The longest recorded error text. The target of a symbolic link holds 4095 bytes.
const TEXT_MAX: usize = 2048;

/// The first character of a recorded text: the variant of the error.
const REFUSED: char = 'r';
const EXCEEDED: char = 'e';

impl Cache {
    /// Returns the recorded failure of this code under equal conditions.
    pub(super) fn recent_failure(&self, name: &str, bounds: &str) -> Option<CacheError> {
        let path = self.failure_record(name);
        let made = fs::symlink_metadata(&path).and_then(|meta| meta.modified()).ok()?;
        // An error: the record is from the future, because the clock was set back since.
        let age = made.elapsed().ok().filter(|age| *age < FAILURE_LIFETIME)?;
        let target = fs::read_link(&path).ok()?;
        let text = target.to_str()?.strip_prefix(bounds)?.strip_prefix('\n')?;
        let recorded =
            |text: &str| format!("{text} (from a compilation that failed {} s ago)", age.as_secs());
        match text.strip_prefix(REFUSED) {
            Some(text) => Some(CacheError::Compile(recorded(text))),
            None => Some(CacheError::Exceeded(recorded(text.strip_prefix(EXCEEDED)?))),
        }
    }

    /// Records a failure that the module caused.
    pub(super) fn record_failure(&self, name: &str, bounds: &str, error: &CacheError) {
        let (kind, text) = match error {
            CacheError::Compile(text) => (REFUSED, text),
            CacheError::Exceeded(text) => (EXCEEDED, text),
            _ => return,
        };
        let text = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
        let path = self.failure_record(name);
        // Most often the record does not exist.
        let _ = fs::remove_file(&path);
        // Without a record the next start compiles again.
        let _ = symlink(format!("{bounds}\n{kind}{text}"), path);
    }

    fn failure_record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{FAILED}"))
    }
}
