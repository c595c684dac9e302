//! Waits for a condition with a deadline: the only kind of waiting in a test.

use crate::places::patience;
use std::thread;
use std::time::{Duration, Instant};

/// The deadline of a condition that needs little work. It is far above the time on a loaded
/// machine: it ends a test that hangs, and measures nothing.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, or panics with `what` after `deadline`.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Waits until `probe` returns a value and returns it, or panics with `what` after `deadline`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let (start, deadline) = (Instant::now(), deadline * patience());
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < deadline, "timed out after {deadline:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
