//! Modules that could not be compiled, remembered for a while.
//!
//! A container that is restarted for ever would have its module compiled for ever. A record is a symbolic link, as those
//! of [`super::memo`] are: its name is the code's, its target the bounds and the sentence, its time that of the attempt.
//!
//! Recorded is what depends on the module and the bounds alone: not that the compiler was killed or cancelled, nor that
//! the module changed while it was read. A container could bring that about for a module that is also another's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::{Cache, CacheError};

/// Ends the name of a record of a failure.
pub(super) const FAILED: &str = ".failed";
/// How long a failure is remembered: restarts cost nothing meanwhile, and a mended machine need not be attended to.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// A symbolic link holds 4095 bytes.
const TEXT_MAX: usize = 2048;

/// Which error it was, the first character of the text in a record.
const REFUSED: char = 'r';
const EXCEEDED: char = 'e';

impl Cache {
    /// Why the code of this name could not be made lately, within equal bounds.
    pub(super) fn failed_lately(&self, name: &str, bounds: &str) -> Option<CacheError> {
        let path = self.failure_record(name);
        let made = fs::symlink_metadata(&path).and_then(|meta| meta.modified()).ok()?;
        // A time that lies ahead is that of another clock.
        let age = made.elapsed().ok().filter(|age| *age < REMEMBERED)?;
        let target = fs::read_link(&path).ok()?;
        let text = target.to_str()?.strip_prefix(bounds)?.strip_prefix('\n')?;
        let remembered = |text: &str| format!("{text} (remembered; tried {} s ago)", age.as_secs());
        match text.strip_prefix(REFUSED) {
            Some(text) => Some(CacheError::Compile(remembered(text))),
            None => Some(CacheError::Exceeded(remembered(text.strip_prefix(EXCEEDED)?))),
        }
    }

    /// Remembers a failure, if it is the module's.
    pub(super) fn remember_failure(&self, name: &str, bounds: &str, error: &CacheError) {
        let (kind, text) = match error {
            CacheError::Compile(text) => (REFUSED, text),
            CacheError::Exceeded(text) => (EXCEEDED, text),
            _ => return,
        };
        let text = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
        let path = self.failure_record(name);
        let _ = fs::remove_file(&path);
        // One that cannot be kept costs another attempt.
        let _ = symlink(format!("{bounds}\n{kind}{text}"), path);
    }

    fn failure_record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{FAILED}"))
    }
}
