//! The actor between two states, and after failures.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

use tokio::task::JoinHandle;

use super::*;

const REQUESTS: [&str; 7] = ["start", "kill", "close", "resize", "pause", "resume", "delete"];
const NO_TERMINAL: &str = "cannot resize the terminal: the process has no terminal";
const NOT_STARTED: &str = "the process has not been started";
const ENDED: &str = "the process has ended";
/// The results of all requests between a Start and the state that follows from it.
const BETWEEN: [&str; 7] = [
    "cannot start a running container",
    "ok",
    "ok",
    NO_TERMINAL,
    "cannot pause a created container",
    "cannot resume a created container",
    "cannot delete a created container",
];

/// An actor whose start is running, until the sender sends its result.
async fn starting(exec_id: &str) -> (Harness, Sender<StartResult>, JoinHandle<Result<(), Error>>) {
    let (result, pending) = std::sync::mpsc::channel();
    let fake = Fake { start: Mutex::new(Some(pending)), ..Fake::default() };
    let harness = Harness::new(exec_id, fake);
    let requests = harness.requests.clone();
    let start = tokio::spawn(async move { ask(&requests, Request::Start).await });
    while harness.fake.start.lock().unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    (harness, result, start)
}

/// An actor whose start has failed, and whose process has not exited yet.
async fn start_failed() -> Harness {
    let (harness, result, start) = starting("").await;
    result.send(Err(Failure::new(FailureKind::System, "out of memory"))).unwrap();
    assert_eq!(start.await.unwrap().unwrap_err().to_string(), "out of memory");
    harness
}

/// An added process that runs.
async fn running_exec() -> Harness {
    let (harness, result, start) = starting("e").await;
    result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
    start.await.unwrap().unwrap();
    harness
}

#[tokio::test]
async fn every_request_has_its_result_while_a_start_is_running() {
    for (request, expected) in REQUESTS.iter().zip(BETWEEN) {
        let (mut harness, result, start) = starting("").await;
        assert_eq!(harness.request(request).await, expected, "{request}");
        result.send(Ok(None)).unwrap();
        start.await.unwrap().unwrap();
        assert_eq!(harness.published(), ["started"], "after {request}");
    }
}

#[tokio::test]
async fn every_request_has_its_result_after_a_failed_start() {
    for (request, expected) in REQUESTS.iter().zip(BETWEEN) {
        let mut harness = start_failed().await;
        assert_eq!(harness.request(request).await, expected, "{request}");
        harness.exit().await;
        assert_eq!(harness.request("delete").await, EXIT.to_string(), "after {request}");
        assert_eq!(harness.published(), ["exited 7", "deleted 7"], "after {request}");
    }
}

#[tokio::test]
async fn every_request_to_an_added_process_has_its_result_in_every_state() {
    let requests = ["kill", "close", "resize", "delete"];
    for (request, expected) in requests.iter().zip([NOT_STARTED, "ok", NO_TERMINAL, "0"]) {
        let harness = Harness::new("e", Fake::default());
        assert_eq!(harness.request(request).await, expected, "{request} when created");
    }
    let refused = "cannot delete a created container";
    for (request, expected) in requests.iter().zip([NOT_STARTED, "ok", NO_TERMINAL, refused]) {
        let (harness, result, start) = starting("e").await;
        assert_eq!(harness.request(request).await, expected, "{request} while it starts");
        result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
        start.await.unwrap().unwrap();
    }
    let refused = "cannot delete a running container";
    for (request, expected) in requests.iter().zip(["ok", "ok", NO_TERMINAL, refused]) {
        let harness = running_exec().await;
        assert_eq!(harness.request("start").await, "cannot start a running container");
        assert_eq!(harness.request(request).await, expected, "{request} when running");
    }
    for (request, expected) in requests.iter().zip([ENDED, "ok", ENDED, "7"]) {
        let harness = running_exec().await;
        harness.exit().await;
        assert_eq!(harness.request("start").await, "cannot start a stopped container");
        assert_eq!(harness.request(request).await, expected, "{request} when stopped");
    }
}

#[tokio::test]
async fn an_exit_is_published_from_every_state_before_it() {
    for (state, before) in
        [("created", vec![]), ("running", vec!["started"]), ("paused", vec!["started", "paused"])]
    {
        let mut harness = Harness::new("", Fake::default());
        harness.bring_to(state).await;
        assert_eq!(harness.exit().await.status, EXIT, "{state}");
        let expected: Vec<&str> = before.into_iter().chain(["exited 7"]).collect();
        assert_eq!(harness.published(), expected, "{state}");
        assert_eq!(harness.request("delete").await, "7", "{state}");
    }
}

#[tokio::test]
async fn a_container_that_ended_before_its_start_cannot_be_started() {
    let harness = Harness::new("", Fake::default());
    harness.exit().await;
    assert_eq!(harness.request("start").await, "cannot start a stopped container");
    assert_eq!(harness.request("kill").await, ENDED);
}

#[tokio::test]
async fn an_exit_is_published_once() {
    let mut harness = Harness::new("", Fake::default());
    harness.bring_to("running").await;
    harness.exit().await;
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn an_added_process_ends_alone() {
    let mut harness = running_exec().await;
    harness.exit().await;
    assert_eq!(harness.request("delete").await, "7");
    assert_eq!(harness.published(), ["started", "exited 7"]);
    assert!(harness.fake.signalled.lock().unwrap().is_empty());
    assert_eq!(*harness.fake.removed.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_out_of_memory_kill_is_published_before_the_exit_and_for_the_first_process_alone() {
    let mut harness = Harness::new("", Fake { oom_kills: 2, ..Fake::default() });
    harness.bring_to("stopped").await;
    assert_eq!(harness.published(), ["started", "oom", "exited 7"]);

    let (result, pending) = std::sync::mpsc::channel();
    let start = Mutex::new(Some(pending));
    let mut harness = Harness::new("e", Fake { oom_kills: 2, start, ..Fake::default() });
    result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
    harness.start().await.unwrap();
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn a_signal_to_all_reaches_the_first_process_once() {
    let harness = Harness::new("", Fake::default());
    harness.bring_to("running").await;
    for signal in [0, SIGKILL] {
        let kill = |reply| Request::Kill { signal, all: true, reply };
        ask(&harness.requests, kill).await.unwrap();
    }
    let spared = Some(harness.sleeper.pid());
    assert_eq!(*harness.fake.signalled.lock().unwrap(), [(0, spared), (SIGKILL, None)]);
}

#[tokio::test]
async fn a_signal_to_the_first_process_reaches_no_other() {
    let harness = Harness::new("", Fake::default());
    harness.bring_to("running").await;
    harness.kill(0).await.unwrap();
    assert!(harness.fake.signalled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_container_continues_after_a_signal_that_the_kernel_does_not_have() {
    let mut harness = Harness::new("", Fake::default());
    harness.bring_to("running").await;
    let refused = harness.kill(4000).await.unwrap_err();
    assert_eq!(refused.to_string(), "invalid signal 4000: signals are 1 to 64");
    assert_eq!(harness.snapshot.borrow().state, State::Running);
    assert_eq!(harness.published(), ["started"]);
}

#[tokio::test]
async fn a_container_that_the_kernel_does_not_freeze_stays_running() {
    let mut harness = Harness::new("", Fake { freeze_fails: true, ..Fake::default() });
    harness.bring_to("running").await;
    ask(&harness.requests, Request::Pause).await.unwrap_err();
    assert_eq!(harness.snapshot.borrow().state, State::Running);
    assert_eq!(harness.published(), ["started"]);
}

#[tokio::test]
async fn only_sigkill_thaws_a_paused_container() {
    let harness = Harness::new("", Fake::default());
    harness.bring_to("paused").await;
    harness.kill(0).await.unwrap();
    assert_eq!(*harness.fake.frozen.lock().unwrap(), [true]);
    assert_eq!(harness.snapshot.borrow().state, State::Paused);
}

#[tokio::test]
async fn delete_may_be_repeated_after_a_removal_that_panicked() {
    let fake = Fake { remove_panics: AtomicBool::new(true), ..Fake::default() };
    let mut harness = Harness::new("", fake);
    harness.bring_to("stopped").await;
    assert_eq!(harness.request("delete").await, "the shim panicked: its log has the message");
    assert_eq!(harness.snapshot.borrow().state.name(), "stopped");
    assert_eq!(harness.request("delete").await, "7");
    assert_eq!(harness.published(), ["started", "exited 7", "deleted 7"]);
}

#[tokio::test]
async fn every_client_that_waits_gets_the_exit_also_after_delete() {
    let harness = Harness::new("", Fake::default());
    harness.bring_to("running").await;
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let snapshot = harness.snapshot.clone();
            tokio::spawn(async move { wait(&snapshot).await })
        })
        .collect();
    harness.exit().await;
    harness.delete().await.unwrap();
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap().status, EXIT);
    }
    assert_eq!(wait(&harness.snapshot).await.unwrap().status, EXIT);
}

#[tokio::test]
async fn a_wait_ends_with_an_error_when_the_daemon_ends_first() {
    let Harness { requests, snapshot, sleeper: _sleeper, .. } = Harness::new("", Fake::default());
    drop(requests);
    assert_eq!(wait(&snapshot).await.unwrap_err().to_string(), "it was deleted");
}

#[tokio::test]
async fn a_start_whose_client_left_is_finished_and_published() {
    let (mut harness, result, start) = starting("").await;
    start.abort();
    result.send(Ok(None)).unwrap();
    harness.snapshot.wait_for(|now| now.state == State::Running).await.unwrap();
    harness.exit().await;
    assert_eq!(harness.published(), ["started", "exited 7"]);
}

#[tokio::test]
async fn a_first_process_has_its_pid_before_start_and_an_added_one_after_it() {
    let harness = Harness::new("", Fake::default());
    assert_eq!(harness.snapshot.borrow().pid, harness.sleeper.pid());
    let (harness, result, start) = starting("e").await;
    assert_eq!(harness.snapshot.borrow().pid, 0);
    result.send(Ok(Some(harness.sleeper.new_process()))).unwrap();
    start.await.unwrap().unwrap();
    assert_eq!(harness.snapshot.borrow().pid, harness.sleeper.pid());
    harness.exit().await;
    assert_eq!(harness.snapshot.borrow().pid, harness.sleeper.pid(), "also after the exit");
}

#[tokio::test]
async fn a_failed_start_of_an_added_process_has_the_exit_status_of_a_shell() {
    for (kind, status) in [
        (FailureKind::NotFound, 127),
        (FailureKind::NotExecutable, 126),
        (FailureKind::Invalid, 126),
        (FailureKind::System, 125),
    ] {
        let (mut harness, result, start) = starting("e").await;
        result.send(Err(Failure::new(kind, "x"))).unwrap();
        start.await.unwrap().unwrap_err();
        assert_eq!(wait(&harness.snapshot).await.unwrap().status, status, "{kind:?}");
        assert!(harness.published().is_empty(), "{kind:?}");
    }
}
