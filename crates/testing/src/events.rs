//! The events that a containerd publishes, as `ctr events` prints them.

use std::fs;
use std::path::PathBuf;
use std::process::Child;

/// The events that a containerd has published since the start of the collection.
pub struct Events {
    pub(crate) client: Child,
    pub(crate) path: PathBuf,
}

impl Events {
    /// The output of `ctr events` so far: one line per event.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// The topics of the events about a container, in order.
    pub fn topics(&self, id: &str) -> Vec<String> {
        let text = self.text();
        let about = text.lines().filter(|line| line.contains(&format!("\"{id}\"")));
        about
            .filter_map(|line| line.split(' ').find(|word| word.starts_with('/')))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // The client may have ended by itself.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
