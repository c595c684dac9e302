//! Whether a Create that is on its way is still wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WANTED: u8 = 0;
const CANCELLED: u8 = 1;
const SETTLED: u8 = 2;

/// Shared by a Create and the requests that may cancel it. One of the two comes first: a Create that has settled
/// is not cancelled any more, and one that was cancelled fails. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU8>);

impl Cancel {
    /// Cancels, if the Create has not settled. Returns whether it is cancelled.
    #[must_use]
    pub fn cancel(&self) -> bool {
        self.leave_wanted_for(CANCELLED)
    }

    /// Settles, unless the Create was cancelled. Returns whether it is settled.
    #[must_use]
    pub fn settle(&self) -> bool {
        self.leave_wanted_for(SETTLED)
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) == CANCELLED
    }

    fn leave_wanted_for(&self, state: u8) -> bool {
        match self.0.compare_exchange(WANTED, state, Ordering::AcqRel, Ordering::Acquire) {
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
        assert!(one.clone().cancel() && one.is_cancelled() && one.cancel() && !one.settle());
        let other = Cancel::default();
        assert!(other.settle() && other.settle() && !other.cancel() && !other.is_cancelled());
    }
}
