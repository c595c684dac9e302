//! Reaps the daemon's children at each SIGCHLD.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use wherry_sys::reaper::Reaper;

/// Spawns a task that reaps the children of this process. Must be called once, within the runtime.
///
/// # Errors
/// If the signal handler cannot be installed.
pub fn reap_children(reaper: Reaper) -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            // Before the first signal, too: a child may have exited before the handler existed.
            reaper.reap();
            if children.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}
