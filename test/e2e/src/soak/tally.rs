//! Counts the events of a soak.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A count for each kind of event. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<Mutex<BTreeMap<String, usize>>>);

impl Tally {
    /// Counts one.
    pub(super) fn count(&self, what: &str) {
        let mut counts = self.0.lock().expect("no thread panics");
        *counts.entry(what.to_owned()).or_default() += 1;
    }

    /// The count.
    pub(super) fn of(&self, what: &str) -> usize {
        self.0.lock().expect("no thread panics").get(what).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = self.0.lock().expect("no thread panics");
        let parts: Vec<String> =
            counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}
