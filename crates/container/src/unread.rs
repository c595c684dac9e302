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

    async fn delay(streams: &Streams) -> Duration {
        let start = Instant::now();
        assert_eq!(Unpublished::new(Exit::now(3)).read(streams).await.status, 3);
        start.elapsed()
    }

    #[tokio::test]
    async fn an_exit_waits_for_the_reader_of_its_output() {
        let (streams, mut client, _directory) = written();
        let reader = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(20));
            let mut bytes = [0; 5];
            client.read_exact(&mut bytes).unwrap();
            client
        });
        let delay_with_unread = delay(&streams).await;
        assert!(delay_with_unread >= Duration::from_millis(20), "{delay_with_unread:?}");
        let _client = reader.await.unwrap();
        assert!(!streams.has_unread());
        // Measured as less than a clock's tick: nothing is awaited.
        assert!(delay(&streams).await < Duration::from_millis(20));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_delays_an_exit_by_a_bounded_time() {
        let (streams, _client, _directory) = written();
        let delay = delay(&streams).await;
        assert!(delay >= READ_TIMEOUT && delay < READ_TIMEOUT * 5, "{delay:?}");
    }
}
