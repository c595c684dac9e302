use super::*;

use std::process::{Child, Command};
use std::sync::Mutex;

use tokio::sync::mpsc::error::TryRecvError;

use crate::stdio::Retained;

mod handover;
mod phases;

/// Operations that record what the actor does, and wait for nothing but a start.
#[derive(Default)]
pub(crate) struct Fake {
    /// The next result of a start, which waits until there is one.
    start: Mutex<Option<std::sync::mpsc::Receiver<StartResult>>>,
    frozen: Mutex<Vec<bool>>,
    /// Whether the kernel refuses to freeze and to thaw.
    freeze_fails: bool,
    /// The signals to all processes, each with the process that does not get it.
    signalled: Mutex<Vec<(u32, Option<i32>)>>,
    pub(crate) removed: Mutex<usize>,
    /// Whether the first removal panics.
    remove_panics: std::sync::atomic::AtomicBool,
    oom_kills: u64,
    /// Whether the cgroup is gone after the first count of kills.
    cgroup_vanishes: bool,
    counted: std::sync::atomic::AtomicBool,
}

impl Operations for Fake {
    fn start(&self) -> StartResult {
        let result = self.start.lock().unwrap().take();
        result.map_or(Ok(None), |result| result.recv().unwrap())
    }

    fn signal_all(&self, signal: u32, spared: Option<i32>) {
        self.signalled.lock().unwrap().push((signal, spared));
    }

    fn freeze(&self, frozen: bool) -> Result<(), Error> {
        if self.freeze_fails {
            return Err(Error::Gone);
        }
        self.frozen.lock().unwrap().push(frozen);
        Ok(())
    }

    fn oom_kills(&self) -> u64 {
        let counted = self.counted.swap(true, std::sync::atomic::Ordering::SeqCst);
        if counted && self.cgroup_vanishes { 0 } else { self.oom_kills }
    }

    fn record_usage(&self) {}

    fn release(&self) {}

    fn remove(&self) -> Option<File> {
        assert!(!self.remove_panics.swap(false, std::sync::atomic::Ordering::SeqCst), "a test");
        *self.removed.lock().unwrap() += 1;
        None
    }
}

/// Passes events on to a test.
#[derive(Clone)]
struct Sink(mpsc::UnboundedSender<Event>);

impl EventSink for Sink {
    fn send(&self, event: Event) {
        // A test that reads no event may have ended.
        let _ = self.0.send(event);
    }
}

/// A process that only the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        Sleeper(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn new_process(&self) -> NewProcess {
        let streams = Streams::Pipes(Retained::default());
        NewProcess { process: Arc::new(Process::new(self.pid())), streams }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The test may have ended it and waited for it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An actor, and everything around it.
struct Harness {
    requests: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Snapshot>,
    events: mpsc::UnboundedReceiver<Event>,
    reaper: Reaper,
    fake: Arc<Fake>,
    sleeper: Sleeper,
    exec_id: String,
    sink: Sink,
}

const EXIT: u32 = 7;

impl Harness {
    fn new(exec_id: &str, fake: Fake) -> Harness {
        let (sender, events) = mpsc::unbounded_channel();
        let (fake, sleeper) = (Arc::new(fake), Sleeper::start());
        let spec = Spec {
            id: "c".to_owned(),
            exec_id: exec_id.to_owned(),
            operations: fake.clone(),
            process: exec_id.is_empty().then(|| sleeper.new_process()),
            oom: None,
        };
        let (reaper, sink) = (Reaper::default(), Sink(sender));
        let (requests, snapshot) = spawn(spec, Arc::new(sink.clone()), reaper.clone());
        let exec_id = exec_id.to_owned();
        Harness { requests, snapshot, events, reaper, fake, sleeper, exec_id, sink }
    }

    /// Gives a container that was created other streams.
    fn replace_streams(&mut self, streams: Streams) {
        let process = NewProcess { streams, ..self.sleeper.new_process() };
        let spec = Spec {
            id: "c".to_owned(),
            exec_id: String::new(),
            operations: self.fake.clone(),
            process: Some(process),
            oom: None,
        };
        self.reaper = Reaper::default();
        (self.requests, self.snapshot) =
            spawn(spec, Arc::new(self.sink.clone()), self.reaper.clone());
    }

    async fn start(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Start).await
    }

    async fn kill(&self, signal: u32) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Kill { signal, all: false, reply }).await
    }

    async fn delete(&self) -> Result<Exit, Error> {
        ask(&self.requests, Request::Delete).await
    }

    async fn exit(&self) -> Exit {
        self.reaper.simulate_exit(self.sleeper.pid(), Exit::now(EXIT));
        wait(&self.snapshot).await.unwrap()
    }

    /// Brings a container into a state.
    async fn bring_to(&self, state: &str) {
        if matches!(state, "running" | "paused" | "stopped" | "deleted") {
            self.start().await.unwrap();
        }
        if state == "paused" {
            ask(&self.requests, Request::Pause).await.unwrap();
        }
        if matches!(state, "stopped" | "deleted") {
            self.exit().await;
        }
        if state == "deleted" {
            self.delete().await.unwrap();
        }
        assert_eq!(self.snapshot.borrow().state.name(), state);
    }

    /// Sends a request and renders its result.
    async fn request(&self, name: &str) -> String {
        let unit = match name {
            "start" => self.start().await,
            "kill" => self.kill(0).await,
            "close" => ask(&self.requests, Request::CloseStdin).await,
            "resize" => {
                let resize = |reply| Request::Resize { columns: 80, rows: 24, reply };
                ask(&self.requests, resize).await
            }
            "pause" => ask(&self.requests, Request::Pause).await,
            "resume" => ask(&self.requests, Request::Resume).await,
            _ => {
                let exit = self.delete().await;
                return exit.map_or_else(|error| error.to_string(), |exit| exit.status.to_string());
            }
        };
        unit.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    fn published(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) => names.push(match event.kind {
                    EventKind::Started { .. } => "started".to_owned(),
                    EventKind::Exited { exit, .. } => format!("exited {}", exit.status),
                    EventKind::Paused => "paused".to_owned(),
                    EventKind::Resumed => "resumed".to_owned(),
                    EventKind::OutOfMemory => "oom".to_owned(),
                    EventKind::Deleted { exit, .. } => format!("deleted {}", exit.status),
                    EventKind::Created { .. } | EventKind::ExecAdded => "other".to_owned(),
                }),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return names,
            }
        }
    }
}

#[tokio::test]
async fn every_request_has_its_result_in_every_state() {
    let requests = ["start", "kill", "close", "resize", "pause", "resume", "delete"];
    let no_terminal = "cannot resize the terminal: the process has no terminal";
    let (ended, gone) = ("the process has ended", "it was deleted");
    let refused = |what: &str, state: &str| format!("cannot {what} a {state} container");
    for state in ["created", "running", "paused", "stopped", "deleted"] {
        let no = |what: &str| refused(what, state);
        let expected: [String; 7] = match state {
            "created" => [
                "ok".into(),
                "ok".into(),
                "ok".into(),
                no_terminal.into(),
                no("pause"),
                no("resume"),
                KILLED.to_string(),
            ],
            "running" => [
                no("start"),
                "ok".into(),
                "ok".into(),
                no_terminal.into(),
                "ok".into(),
                no("resume"),
                no("delete"),
            ],
            "paused" => [
                no("start"),
                "ok".into(),
                "ok".into(),
                no_terminal.into(),
                no("pause"),
                "ok".into(),
                no("delete"),
            ],
            "stopped" => [
                no("start"),
                ended.into(),
                "ok".into(),
                ended.into(),
                no("pause"),
                no("resume"),
                EXIT.to_string(),
            ],
            _ => [gone; 7].map(str::to_owned),
        };
        for (request, expected) in requests.iter().zip(expected) {
            let harness = Harness::new("", Fake::default());
            harness.bring_to(state).await;
            assert_eq!(harness.request(request).await, expected, "{request} when {state}");
        }
    }
}

#[tokio::test]
async fn a_life_is_published_in_order() {
    let mut harness = Harness::new("", Fake { oom_kills: 1, ..Fake::default() });
    harness.bring_to("paused").await;
    harness.request("resume").await;
    harness.exit().await;
    harness.delete().await.unwrap();
    let expected = ["started", "paused", "resumed", "oom", "exited 7", "deleted 7"];
    assert_eq!(harness.published(), expected);
    assert_eq!(*harness.fake.removed.lock().unwrap(), 1);
    // The container's remaining processes are killed at its exit.
    assert_eq!(*harness.fake.signalled.lock().unwrap(), [(SIGKILL, None)]);
}

#[tokio::test]
async fn a_kill_is_published_although_the_cgroup_is_gone_when_the_exit_is() {
    let fake = Fake { oom_kills: 1, cgroup_vanishes: true, ..Fake::default() };
    let mut harness = Harness::new("", fake);
    harness.bring_to("running").await;
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "oom", "exited 7"]);
}

#[tokio::test]
async fn an_exit_never_overtakes_a_start() {
    let (result, pending) = std::sync::mpsc::channel();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let mut harness = Harness::new("", fake);
    let requests = harness.requests.clone();
    let start = tokio::spawn(async move { ask(&requests, Request::Start).await });
    // A second Start is refused while the first one is running.
    while !harness.fake.start.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(harness.request("start").await, "cannot start a running container");
    harness.reaper.simulate_exit(harness.sleeper.pid(), Exit::now(EXIT));
    tokio::task::yield_now().await;
    assert!(harness.published().is_empty());
    result.send(Ok(None)).unwrap();
    start.await.unwrap().unwrap();
    wait(&harness.snapshot).await.unwrap();
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn a_process_that_cannot_be_created_has_the_exit_status_of_the_failure() {
    let (result, pending) = std::sync::mpsc::channel();
    result.send(Err(Failure::new(FailureKind::NotFound, "no such program"))).unwrap();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let mut harness = Harness::new("e", fake);
    assert_eq!(harness.request("kill").await, "the process has not been started");
    assert_eq!(harness.request("start").await, "no such program");
    assert_eq!(wait(&harness.snapshot).await.unwrap().status, 127);
    assert_eq!(harness.request("delete").await, "127");
    assert!(harness.published().is_empty());
    assert_eq!(*harness.fake.removed.lock().unwrap(), 0, "the container stays");
}

#[tokio::test]
async fn a_failed_start_of_a_first_process_is_followed_by_its_exit() {
    let (result, pending) = std::sync::mpsc::channel();
    result.send(Err(Failure::new(FailureKind::NotExecutable, "permission denied"))).unwrap();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let mut harness = Harness::new("", fake);
    assert_eq!(harness.request("start").await, "permission denied");
    assert_eq!(harness.request("start").await, "cannot start a running container");
    harness.exit().await;
    assert_eq!(harness.published(), ["exited 7"]);
    assert_eq!(harness.request("delete").await, "7");
}

#[tokio::test]
async fn an_added_process_that_was_never_started_has_no_exit_status() {
    let mut harness = Harness::new("e", Fake::default());
    assert_eq!(harness.request("delete").await, "0");
    assert!(harness.published().is_empty());
}

#[tokio::test]
async fn a_container_that_was_never_started_is_killed_by_delete() {
    let mut harness = Harness::new("", Fake::default());
    assert_eq!(harness.request("delete").await, KILLED.to_string());
    assert_eq!(harness.published(), ["deleted 137"]);
    assert!(harness.sleeper.0.wait().unwrap().code().is_none());
}

#[tokio::test]
async fn an_added_process_is_watched_once_it_exists() {
    let (result, pending) = std::sync::mpsc::channel();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let mut harness = Harness::new("e", fake);
    result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
    assert_eq!(harness.request("start").await, "ok");
    assert_eq!(harness.snapshot.borrow().pid, harness.sleeper.pid());
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn a_kill_thaws_a_paused_container() {
    let harness = Harness::new("", Fake::default());
    harness.bring_to("paused").await;
    harness.kill(SIGKILL).await.unwrap();
    assert_eq!(*harness.fake.frozen.lock().unwrap(), [true, false]);
}

#[tokio::test]
async fn a_panic_of_a_start_is_an_error_of_start() {
    let (result, pending) = std::sync::mpsc::channel::<StartResult>();
    // The fake panics, because the sender is gone.
    drop(result);
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let harness = Harness::new("", fake);
    let text = "the start was aborted: the shim panicked";
    assert_eq!(harness.request("start").await, text);
    harness.exit().await;
    assert_eq!(harness.request("delete").await, "7");
}
