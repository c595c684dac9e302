//! How many modules a machine compiles at a time.
//!
//! A slot is a lock file in the cache directory, which all daemons use; the kernel lets go of it when its holder dies. The
//! files stay: to remove one that is locked would give its number to two compilations. The number is the compiler's, too:
//! the user that it runs as is made from it.

use std::fs::{File, TryLockError};
use std::{process, thread};

use super::{Cache, CacheError, Compiler, LOOK, Note, file};

/// A machine of one processor still compiles a small module beside a large one.
const COUNT_MIN: u32 = 2;
/// The number of the compilation that has [`Cache::turn_behind`], whose own lock lets one be at a time.
const BEHIND: u32 = 0x0fff;
/// Begins the numbers of compilations for which no lock could be had.
const UNLOCKED: u32 = 0x1000;

/// The right to compile, until it is dropped.
pub(super) struct Slot {
    pub(super) number: u32,
    _lock: Option<File>,
}

/// As many as the machine has processors.
pub(super) fn count() -> u32 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors).unwrap_or(COUNT_MIN).clamp(COUNT_MIN, BEHIND)
}

impl Slot {
    /// For a directory that must not be used, or takes no lock files: the cache is not needed for a start.
    pub(super) fn without_lock() -> Slot {
        Slot { number: UNLOCKED | (process::id() & 0x7fff), _lock: None }
    }
}

impl Cache {
    /// Waits for a slot.
    pub(super) fn slot(
        &self,
        name: &str,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Slot, CacheError> {
        if compiler.is_behind() {
            return Ok(Slot { number: BEHIND, _lock: None });
        }
        let mut waits = false;
        loop {
            if compiler.is_cancelled() {
                return Err(CacheError::Cancelled);
            }
            let mut refused = 0;
            for number in 0..self.slots {
                match self.try_slot(number) {
                    Ok(lock) => return Ok(Slot { number, _lock: Some(lock) }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(_)) => refused += 1,
                }
            }
            if refused == self.slots {
                return Ok(Slot::without_lock());
            }
            if !waits {
                waits = true;
                tell(Note::Waiting { name: name.to_owned() });
            }
            thread::sleep(LOOK);
        }
    }

    fn try_slot(&self, number: u32) -> Result<File, TryLockError> {
        let path = self.directory.join(format!("slot-{number}"));
        let file = file::open(&path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(file)
    }
}
