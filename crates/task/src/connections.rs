//! Counts the clients that are connected to the daemon.

use std::sync::Arc;

use tokio::sync::watch;

/// The number of open connections. Clones share it.
#[derive(Debug, Clone)]
pub struct Connections(Arc<watch::Sender<usize>>);

/// One open connection, counted until this is dropped.
#[derive(Debug)]
pub struct Connected(Connections);

impl Default for Connections {
    fn default() -> Connections {
        Connections(Arc::new(watch::Sender::new(0)))
    }
}

impl Connections {
    /// Counts a connection until the result is dropped.
    #[must_use]
    pub fn open(&self) -> Connected {
        self.0.send_modify(|count| *count += 1);
        Connected(self.clone())
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        // `self` holds the sender: the channel cannot close.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Receives the number after each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_connection_that_closes_wakes_those_that_wait() {
        let connections = Connections::default();
        assert!(connections.none());
        let (one, other) = (connections.open(), connections.clone().open());
        drop(one);
        assert!(!connections.none());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.closed().await }
        });
        drop(other);
        waiting.await.unwrap();
        assert!(connections.none());
    }
}
