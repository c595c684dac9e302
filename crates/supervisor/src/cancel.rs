//! The cancellation of a Create that is still running.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const COMMITTED: u8 = 2;

/// Shared by a Create and the requests that may cancel it. The first of the two wins: a committed
/// Create cannot be cancelled, and a cancelled one fails. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU8>);

impl Cancel {
    /// Cancels the Create unless it is committed. Returns whether it is cancelled.
    #[must_use]
    pub fn cancel(&self) -> bool {
        self.transition(CANCELLED)
    }

    /// Commits the Create unless it is cancelled. Returns whether it is committed.
    #[must_use]
    pub fn commit(&self) -> bool {
        self.transition(COMMITTED)
    }

    /// Whether the Create is cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) == CANCELLED
    }

    fn transition(&self, state: u8) -> bool {
        match self.0.compare_exchange(RUNNING, state, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_is_either_cancelled_or_settled() {
        let one = Cancel::default();
        assert!(!one.is_cancelled());
        assert!(one.clone().cancel() && one.is_cancelled() && one.cancel() && !one.commit());
        let other = Cancel::default();
        assert!(other.commit() && other.commit() && !other.cancel() && !other.is_cancelled());
    }
}
