//! Delays the publication of an exit until the client has read the output.
//!
//! A client such as `ctr` closes its ends of the output pipes as soon as it learns of the exit,
//! even if its reader has not been scheduled since the last write: on a busy machine some of a
//! thousand containers then print nothing. So the exit is published (event, Wait, State) when the
//! pipes are empty. A client that does not read, or is gone, delays it by [`READ_TIMEOUT`] at most.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wherry_sys::process::Exit;

use crate::stdio::Streams;

/// The longest delay of an exit. A reader that waits in `epoll` takes less than a millisecond on an
/// idle machine.
const READ_TIMEOUT: Duration = Duration::from_millis(80);
/// The first pause between two checks of the pipes. Each pause is twice the one before.
const PAUSE_FIRST: Duration = Duration::from_micros(500);
const PAUSE_LAST: Duration = Duration::from_millis(8);

/// An exit that may not be published yet.
pub(crate) struct Unpublished {
    exit: Exit,
    deadline: Instant,
    pause: Duration,
}

impl Unpublished {
    /// Starts the delay of an exit that has just occurred.
    pub(crate) fn new(exit: Exit) -> Unpublished {
        let deadline = Instant::now() + READ_TIMEOUT;
        Unpublished { exit, deadline, pause: PAUSE_FIRST }
    }

    /// The exit.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Waits until the exit may be published, and returns it. Cancel-safe.
    pub(crate) async fn read(&mut self, streams: &Streams) -> Exit {
        while streams.has_unread() && Instant::now() < self.deadline {
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_LAST);
        }
        self.exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    use tokio::time::timeout;

    use crate::stdio::{self, StdioPaths};

    /// Streams with unread output, the client's end of it, and what keeps the directory.
    fn written() -> (Streams, File, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
        let stdout = path.display().to_string();
        let (ends, kept) = stdio::open(&StdioPaths { stdout, ..StdioPaths::default() }).unwrap();
        let client = File::open(&path).unwrap();
        let guest = ends.stdout;
        File::from(guest).write_all(b"hello").unwrap();
        (Streams::Pipes(kept), client, directory)
    }

    /// With a paused clock, which advances only when every task waits for it.
    #[tokio::test(start_paused = true)]
    async fn an_exit_waits_for_the_reader_of_its_output() {
        let (streams, mut client, _directory) = written();
        let mut unpublished = Unpublished::new(Exit::now(3));
        let mut read = Box::pin(unpublished.read(&streams));
        assert!(timeout(READ_TIMEOUT / 2, &mut read).await.is_err());
        client.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(timeout(PAUSE_LAST, read).await.unwrap().status, 3);
        assert!(!streams.has_unread());
        let mut later = Unpublished::new(Exit::now(4));
        assert_eq!(timeout(Duration::ZERO, later.read(&streams)).await.unwrap().status, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_delays_an_exit_by_a_bounded_time() {
        let (streams, _client, _directory) = written();
        let start = Instant::now();
        let mut unpublished = Unpublished::new(Exit::now(3));
        let mut read = Box::pin(unpublished.read(&streams));
        assert!(timeout(READ_TIMEOUT - PAUSE_LAST, &mut read).await.is_err());
        assert_eq!(read.await.status, 3);
        let delay = start.elapsed();
        assert!(delay >= READ_TIMEOUT && delay <= READ_TIMEOUT + PAUSE_LAST, "{delay:?}");
        assert!(streams.has_unread());
    }
}
