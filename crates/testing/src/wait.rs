//! Waiting for a condition with a deadline: the only kind of waiting a test does.

use crate::places::patience;
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take that needs no work worth mentioning. Far above what a loaded machine
/// takes: it is there to end a test that hangs, not to measure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, or panics with `what` when `deadline` has passed.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Waits until `probe` finds something and returns it, or panics with `what` when `deadline` has passed.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let (start, deadline) = (Instant::now(), deadline * patience());
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
