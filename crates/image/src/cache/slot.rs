//! Slots: a limit on the concurrent compilations of a machine.
//!
//! A slot is a lock file in the cache directory, which all daemons share; the kernel releases the
//! lock when its holder dies. The files are never removed: removing a locked one would give its
//! number to two compilations. The compiler's uid is derived from the slot's number.

use std::fs::{File, TryLockError};
use std::{process, thread};

use super::{Cache, CacheError, CacheEvent, Compiler, POLL_INTERVAL, file};

/// The minimum number of slots: on one processor a small module still compiles beside a large one.
const COUNT_MIN: u32 = 2;
/// The number of the background compilation. [`Cache::background_lock`] limits those to one.
const BACKGROUND: u32 = 0x0fff;
/// The first number of compilations without a lock.
const UNLOCKED: u32 = 0x1000;

/// A slot, held until it is dropped.
pub(super) struct Slot {
    pub(super) number: u32,
    _lock: Option<File>,
}

/// The number of slots: one per processor, from [`COUNT_MIN`] to [`BACKGROUND`].
pub(super) fn count() -> u32 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors).map_or(BACKGROUND, |number| number.clamp(COUNT_MIN, BACKGROUND))
}

impl Slot {
    /// A slot without a lock, for a cache directory that is unusable or read-only.
    pub(super) fn unlocked() -> Slot {
        Slot { number: UNLOCKED | (process::id() & 0x7fff), _lock: None }
    }
}

impl Cache {
    /// Waits for a free slot.
    pub(super) fn slot(
        &self,
        name: &str,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> Result<Slot, CacheError> {
        if compiler.is_background() {
            return Ok(Slot { number: BACKGROUND, _lock: None });
        }
        let mut waiting = false;
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
                return Ok(Slot::unlocked());
            }
            if !waiting {
                waiting = true;
                on_event(CacheEvent::Waiting { name: name.to_owned() });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn try_slot(&self, number: u32) -> Result<File, TryLockError> {
        let path = self.directory.join(format!("slot-{number}"));
        let file = file::open(&path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(file)
    }
}
