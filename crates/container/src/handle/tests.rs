use super::*;

use wherry_image::Cache;
use wherry_protocol::RuntimeOptions;
use wherry_protocol::compile::Bounds;
use wherry_supervisor::create::ContainerConfig;
use wherry_supervisor::{Engine, Engines, Program, Supervisor};
use wherry_sys::reaper::Reaper;

use crate::actor::tests::Fake;

#[derive(Default)]
struct Published(Mutex<Vec<EventKind>>);

impl crate::EventSink for Published {
    fn send(&self, event: Event) {
        self.0.lock().unwrap().push(event.kind);
    }
}

/// A container with a process that only the test ends, and everything around it. Its actor has
/// panicked: the requests have no receiver, and the snapshot changes no more.
struct Harness {
    container: Container,
    child: std::process::Child,
    fake: Arc<Fake>,
    events: Arc<Published>,
    _folder: tempfile::TempDir,
}

impl Drop for Harness {
    fn drop(&mut self) {
        // The test may have ended it and waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Harness {
    fn new(state: State) -> Harness {
        let folder = tempfile::tempdir().unwrap();
        let events = Arc::new(Published::default());
        // The test runs none of its executables.
        let host = Program::new("wherry-none-host".into());
        let engine = Engine::new("none", host, Cache::new(folder.path().join("cache"), "none", 0));
        let supervisor = Supervisor {
            engines: Engines::only(engine),
            bounds: Bounds { memory: 1 << 20, seconds: 1, module: 1 << 20, code: 1 << 20 },
            reaper: Reaper::default(),
        };
        let runtime =
            Arc::new(Runtime { supervisor: Arc::new(supervisor), events: events.clone() });
        let container = ContainerConfig {
            id: "x".into(),
            bundle: folder.path().into(),
            rootfs: Vec::new(),
            terminal: false,
            pod: None,
            options: RuntimeOptions::default(),
        };
        let config = Arc::new(Config {
            container,
            stdio: StdioPaths::default(),
            cancel: wherry_supervisor::Cancel::default(),
        });
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Arc::new(Process::new(i32::try_from(child.id()).unwrap()));
        let (requests, _) = mpsc::channel(1);
        let (_, snapshot) = watch::channel(Snapshot { state, pid: process.pid() });
        let (execs, fake) = (Arc::default(), Arc::new(Fake::default()));
        let operations: Arc<dyn Operations> = fake.clone();
        let container = Container {
            runtime,
            config,
            operations,
            meter: None,
            process,
            requests,
            snapshot,
            execs,
            cancel_execs: Cancel::default(),
        };
        Harness { container, child, fake, events, _folder: folder }
    }

    fn exec(&self, exec_id: &str) -> Result<(), Error> {
        let config = ExecConfig {
            exec_id: exec_id.into(),
            process: "{}".into(),
            cwd: "/".into(),
            terminal: false,
        };
        self.container.exec(config, StdioPaths::default())
    }

    fn published(&self) -> Vec<EventKind> {
        self.events.0.lock().unwrap().clone()
    }
}

const EXIT: Exit = Exit { status: 7, at: std::time::SystemTime::UNIX_EPOCH };

#[tokio::test]
async fn a_container_whose_actor_has_panicked_can_be_deleted() {
    let mut harness = Harness::new(State::Running);
    assert!(!harness.container.cancel_execs.is_cancelled());
    assert_eq!(harness.container.delete().await.unwrap().status, 137);
    assert!(harness.container.cancel_execs.is_cancelled(), "no exec is still prepared");
    assert!(harness.child.wait().unwrap().code().is_none());
    assert_eq!(*harness.fake.removed.lock().unwrap(), 1);
    let published = harness.published();
    let expected =
        matches!(published.as_slice(), [EventKind::Exited { .. }, EventKind::Deleted { .. }]);
    assert!(expected, "{published:?}");
}

#[tokio::test]
async fn an_exit_that_was_published_before_the_actor_panicked_is_not_published_again() {
    let harness = Harness::new(State::Stopped(EXIT));
    assert_eq!(harness.container.delete().await.unwrap(), EXIT);
    let published = harness.published();
    assert!(matches!(published.as_slice(), [EventKind::Deleted { .. }]), "{published:?}");
}

#[tokio::test]
async fn a_container_that_was_deleted_is_not_deleted_again() {
    let harness = Harness::new(State::Deleted(EXIT));
    assert!(matches!(harness.container.delete().await, Err(Error::Gone)));
    assert_eq!(*harness.fake.removed.lock().unwrap(), 0);
    assert!(harness.published().is_empty());
}

#[tokio::test]
async fn a_process_is_added_to_a_running_container_alone() {
    for state in [State::Created, State::Paused, State::Stopped(EXIT), State::Deleted(EXIT)] {
        let harness = Harness::new(state);
        let expected = format!("cannot exec in a {} container", state.name());
        assert_eq!(harness.exec("e").unwrap_err().to_string(), expected);
        assert!(harness.container.find_exec("e").is_none());
        assert!(harness.published().is_empty());
    }
    let harness = Harness::new(State::Running);
    harness.exec("e").unwrap();
    assert!(matches!(harness.published().as_slice(), [EventKind::ExecAdded]));
}

#[tokio::test]
async fn the_id_of_an_added_process_is_free_again_after_its_delete() {
    let harness = Harness::new(State::Running);
    harness.exec("e").unwrap();
    assert_eq!(harness.exec("e").unwrap_err().to_string(), "exec \"e\" already exists");
    let exec = harness.container.find_exec("e").unwrap();
    assert_eq!(exec.delete().await.unwrap().status, 0);
    harness.container.forget_exec("e");
    assert!(harness.container.find_exec("e").is_none());
    harness.exec("e").unwrap();
}

#[tokio::test]
async fn an_added_process_that_was_not_started_has_no_pid() {
    let harness = Harness::new(State::Running);
    harness.exec("e").unwrap();
    assert!(harness.container.exec_pids().is_empty());
    assert_eq!(harness.container.pids(), [harness.container.pid()]);
}

#[tokio::test]
async fn a_container_that_has_exited_has_no_pids_and_accepts_no_limits() {
    let harness = Harness::new(State::Stopped(EXIT));
    assert!(harness.container.pids().is_empty());
    let refused = harness.container.update(LinuxResources::default()).await.unwrap_err();
    assert_eq!(refused.to_string(), "the process has ended");
    assert!(harness.container.usage().is_none());
    assert_eq!(harness.container.wait().await.unwrap(), EXIT);
}
