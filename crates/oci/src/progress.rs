//! The progress of transfers, for a user interface.

/// Receives the progress of transfers.
pub trait Progress {
    /// A transfer of `total` bytes begins. `label` is the name of its content.
    fn begin(&self, label: &str, total: u64);
    /// The current transfer has reached this number of bytes.
    fn reach(&self, bytes: u64);
    /// The current transfer has ended.
    fn end(&self);
    /// Something happened that a user may want to read, such as a retry.
    fn note(&self, text: &str);
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn reach(&self, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}
