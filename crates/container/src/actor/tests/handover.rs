//! Actors that are suspended, and resumed or handed over.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use nix::pty::openpty;
use tokio::time::timeout;
use wherry_sys::handover::{self, Incoming, Outgoing};

use super::*;
use crate::stdio::{self, StdioPaths};

const LIMIT: Duration = Duration::from_secs(60);

/// Hands the actor over: to an actor with the same fake, another reaper and the same sink.
async fn handed_over(harness: &mut Harness) {
    let suspended = Suspended::of(&harness.requests).await.unwrap();
    let mut out = Outgoing::default();
    let saved = suspended.save(&mut out).unwrap();
    let mut from = Incoming::duplicates(&out);
    // As after execve: nothing of the old actor runs.
    std::mem::forget(suspended);
    let context = ActorContext {
        id: "c".to_owned(),
        exec_id: harness.exec_id.clone(),
        operations: harness.fake.clone(),
        init: Arc::new(Process::new(harness.sleeper.pid())),
        meter: None,
    };
    harness.reaper = Reaper::default();
    let saved = handover::copy(&saved);
    let sink = Arc::new(harness.sink.clone());
    (harness.requests, harness.snapshot) =
        restore(saved, context, sink, harness.reaper.clone(), &mut from).unwrap();
}

#[tokio::test]
async fn a_container_continues_after_a_handover_from_each_state() {
    for state in ["created", "running", "paused", "stopped"] {
        let mut harness = Harness::new("", Fake::default());
        harness.bring_to(state).await;
        let before = *harness.snapshot.borrow();
        harness.published();
        handed_over(&mut harness).await;
        assert_eq!(*harness.snapshot.borrow(), before, "{state}");
        assert!(harness.published().is_empty(), "{state}");
        let expected = match state {
            "created" => {
                harness.start().await.unwrap();
                harness.exit().await;
                vec!["started", "exited 7", "deleted 7"]
            }
            "stopped" => vec!["deleted 7"],
            _ => {
                harness.exit().await;
                vec!["exited 7", "deleted 7"]
            }
        };
        assert_eq!(harness.delete().await.unwrap().status, EXIT, "{state}");
        assert_eq!(harness.published(), expected, "{state}");
    }
}

#[tokio::test]
async fn an_added_process_is_handed_over_before_and_after_its_start() {
    let mut harness = Harness::new("e", Fake::default());
    handed_over(&mut harness).await;
    assert_eq!(harness.request("delete").await, "0");

    let (result, pending) = std::sync::mpsc::channel();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let mut harness = Harness::new("e", fake);
    result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
    harness.start().await.unwrap();
    handed_over(&mut harness).await;
    harness.kill(0).await.unwrap();
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_was_reaped_and_not_published_is_published_after_the_handover() {
    let mut harness = Harness::new("", Fake::default());
    let directory = tempfile::tempdir().unwrap();
    let (retained, _client) = unread_output(directory.path());
    harness.replace_streams(Streams::Pipes(retained));
    harness.start().await.unwrap();
    harness.reaper.simulate_exit(harness.sleeper.pid(), Exit::now(EXIT));
    tokio::task::yield_now().await;
    handed_over(&mut harness).await;
    assert_eq!(harness.snapshot.borrow().state.exit(), None);
    assert_eq!(wait(&harness.snapshot).await.unwrap().status, EXIT);
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

/// Streams with output that the client has not read, and the client's end.
fn unread_output(directory: &Path) -> (Retained, File) {
    let path = directory.join("out");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stdout = path.display().to_string();
    let (ends, retained) = stdio::open(&StdioPaths { stdout, ..StdioPaths::default() }).unwrap();
    let client = File::open(&path).unwrap();
    File::from(ends.stdout).write_all(b"hello").unwrap();
    (retained, client)
}

#[tokio::test]
async fn output_without_a_reader_is_kept_by_the_next_version() {
    let directory = tempfile::tempdir().unwrap();
    let mut harness = Harness::new("", Fake::default());
    let (retained, client) = unread_output(directory.path());
    drop(client);
    harness.replace_streams(Streams::Pipes(retained));
    harness.start().await.unwrap();
    harness.exit().await;
    handed_over(&mut harness).await;
    handed_over(&mut harness).await;
    let mut text = [0; 5];
    File::open(directory.path().join("out")).unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn a_suspended_actor_that_is_dropped_handles_the_requests_that_came_meanwhile() {
    let mut harness = Harness::new("", Fake::default());
    let suspended = Suspended::of(&harness.requests).await.unwrap();
    let requests = harness.requests.clone();
    let start = tokio::spawn(async move { ask(&requests, Request::Start).await });
    tokio::task::yield_now().await;
    assert!(!start.is_finished());
    drop(suspended);
    start.await.unwrap().unwrap();
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn an_actor_with_a_start_in_progress_or_without_a_process_is_not_suspended() {
    let (result, pending) = std::sync::mpsc::channel();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let harness = Harness::new("", fake);
    let requests = harness.requests.clone();
    let start = tokio::spawn(async move { ask(&requests, Request::Start).await });
    while harness.fake.start.lock().unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    let refused = Suspended::of(&harness.requests).await.err().unwrap();
    assert!(matches!(refused, Error::Starting));
    result.send(Ok(None)).unwrap();
    start.await.unwrap().unwrap();
    harness.exit().await;
    harness.delete().await.unwrap();
    let refused = Suspended::of(&harness.requests).await.err().unwrap();
    assert!(matches!(refused, Error::Gone));
}

/// The client's pipe for output has no room, so the terminal's copy has bytes in hand.
#[tokio::test]
async fn what_was_read_from_a_terminal_and_not_written_is_written_by_the_next_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stdout = path.display().to_string();
    let pty = openpty(None, None).unwrap();
    let paths = StdioPaths { stdout, ..StdioPaths::default() };
    let mut streams = Streams::start(None, Some(pty.master), &paths).unwrap();
    let mut options = OpenOptions::new();
    let mut client = options.read(true).write(true).open(&path).unwrap();
    // A pipe of 65536 bytes takes a write of up to 4096 bytes as a whole or not.
    client.write_all(&[b'-'; 65000]).unwrap();
    let mut guest = File::from(pty.slave);
    guest.write_all(&[b'x'; 2000]).unwrap();
    let in_hand = [b'x'; 2000];
    let saved = async {
        loop {
            streams.suspend().await;
            let mut out = Outgoing::default();
            let saved = streams.save(&mut out);
            let document = handover::encode(Vec::new(), &saved).unwrap();
            if document.windows(in_hand.len()).any(|bytes| bytes == in_hand) {
                return (saved, out);
            }
            streams.resume();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (saved, out) = timeout(LIMIT, saved).await.unwrap();
    let mut from = Incoming::duplicates(&out);
    drop(streams);
    let _restored = Streams::restore(handover::copy(&saved), &mut from).unwrap();
    guest.write_all(b"the end").unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 65000 + 2000 + 7];
        client.read_exact(&mut bytes).unwrap();
        bytes
    });
    let bytes = timeout(LIMIT, read).await.unwrap().unwrap();
    assert!(bytes[65000..67000].iter().all(|byte| *byte == b'x'));
    assert_eq!(&bytes[67000..], b"the end");
}
