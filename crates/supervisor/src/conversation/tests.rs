use super::*;
use std::io;
use std::process::Command;

use wherry_bundle::{Bundle, SetupLock};
use wherry_image::CacheError;
use wherry_protocol::{CreateRequest, RuntimeOptions, Stdio};

use crate::launch::Host;

mod ends;
mod orders;

/// The service of a test: counts the requests, and fails each with `failed`.
#[derive(Default)]
struct Done {
    failed: Option<Failure>,
    compiled: usize,
    hooks: Vec<i32>,
    cgroups: usize,
}

impl SetupService for Done {
    fn compile(
        &mut self,
        _: &File,
        _: &str,
        _: Option<&str>,
        _: &[String],
    ) -> Result<File, CodeError> {
        self.compiled += 1;
        self.failed.as_ref().map_or_else(
            || Ok(File::open("/dev/null").unwrap()),
            |_| Err(CodeError::Cache(CacheError::Cancelled)),
        )
    }

    fn run_hooks(&mut self, pid: i32) -> Result<(), Failure> {
        self.hooks.push(pid);
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn create_cgroup(&mut self) -> Result<(), Failure> {
        self.cgroups += 1;
        self.failed.clone().map_or(Ok(()), Err)
    }
}

fn create(terminal: bool) -> HostRequest {
    HostRequest::Create(CreateRequest {
        id: "x".into(),
        bundle: "/bundle".into(),
        rootfs: Vec::new(),
        cwd: "/".into(),
        terminal,
        systemd_cgroup: false,
        pod_files: None,
        options: RuntimeOptions::default(),
        module_max: 1 << 20,
    })
}

/// Runs `speak` at the host's and the process's ends, and returns the daemon's result.
fn conversation(
    speak: impl FnOnce(&Channel, &Channel) + Send + 'static,
) -> (Result<i32, String>, Done) {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = Channel::pair().unwrap();
    let speaker = std::thread::spawn(move || {
        let Packet { fds, .. } = theirs.receive::<HostRequest>().unwrap().unwrap();
        let process = Channel::from_fd(fds.into_iter().next().unwrap());
        speak(&theirs, &process);
    });
    let null = || File::open("/dev/null").unwrap().into();
    let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
    let lock = SetupLock::shared(&Bundle::new(directory.path(), "x")).unwrap();
    let mut done = Done::default();
    let request = create(false);
    let reaper = Reaper::default();
    let forked = Host::over(ours).fork(&request, lock, Some(stdio), &reaper, &mut done);
    let result = forked.map(|forked| forked.process.pid()).map_err(|failure| failure.message);
    speaker.join().unwrap();
    (result, done)
}

fn refused(speak: impl FnOnce(&Channel, &Channel) + Send + 'static) -> String {
    conversation(speak).0.unwrap_err()
}

fn compile() -> SetupMessage {
    SetupMessage::Compile { key: "k".into(), baseline: None, start: Start::default().to_args() }
}

/// A child of this process, which is the daemon here.
struct Child(std::process::Child);

impl Child {
    fn start() -> Child {
        Child(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The test may have ended it and waited for it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_message_is_answered_where_it_is_due() {
    let (sender, pids) = std::sync::mpsc::channel();
    let (result, done) = conversation(move |host, process| {
        let child = Child::start();
        process.send(&SetupMessage::Cgroup, &[]).unwrap();
        process.receive::<SetupReply>().unwrap().unwrap();
        process.send(&SetupMessage::Hooks { pid: child.pid() }, &[]).unwrap();
        process.receive::<SetupReply>().unwrap().unwrap();
        let module = File::open("/dev/null").unwrap();
        process.send(&compile(), &[module.as_raw_fd()]).unwrap();
        let answer = process.receive::<SetupReply>().unwrap().unwrap();
        assert!(matches!(answer.message, SetupReply::Compiled) && answer.fds.len() == 1);
        host.send(&HostReply::Forked { pid: child.pid() }, &[]).unwrap();
        sender.send(child).unwrap();
    });
    let child = pids.recv().unwrap();
    assert_eq!(result, Ok(child.pid()));
    assert_eq!((done.cgroups, done.hooks, done.compiled), (1, vec![child.pid()], 1));
}

#[test]
fn a_pid_that_is_not_a_new_child_is_refused_and_no_hook_runs() {
    for pid in [-1, 0, 1, std::process::id().try_into().unwrap(), i32::MAX] {
        let (result, done) = conversation(move |_, process| {
            process.send(&SetupMessage::Hooks { pid }, &[]).unwrap();
            assert!(process.receive::<SetupReply>().is_ok_and(|answer| answer.is_none()));
        });
        let text = result.unwrap_err();
        let expected = "the container's process sent a Hooks message with an invalid pid: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(done.hooks.is_empty());
        let text = refused(move |host, _| host.send(&HostReply::Forked { pid }, &[]).unwrap());
        let expected = "the engine host sent a Forked message with an invalid pid: ";
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_second_request_for_the_same_is_refused() {
    let (result, done) = conversation(|_, process| {
        let module = File::open("/dev/null").unwrap();
        for _ in 0..2 {
            process.send(&compile(), &[module.as_raw_fd()]).unwrap();
        }
    });
    let text = "the container's process sent a Compile message when none was due";
    assert_eq!((result, done.compiled), (Err(text.to_owned()), 1));
    let text = refused(|_, process| {
        process.send(&SetupMessage::Cgroup, &[]).unwrap();
        process.send(&SetupMessage::Cgroup, &[]).unwrap();
    });
    assert_eq!(text, "the container's process sent a Cgroup message when none was due");
}

#[test]
fn hooks_after_the_program_was_found_are_refused() {
    let (result, done) = conversation(|_, process| {
        let module = File::open("/dev/null").unwrap();
        let child = Child::start();
        process.send(&compile(), &[module.as_raw_fd()]).unwrap();
        process.receive::<SetupReply>().unwrap().unwrap();
        process.send(&SetupMessage::Hooks { pid: child.pid() }, &[]).unwrap();
        assert!(process.receive::<SetupReply>().is_ok_and(|answer| answer.is_none()));
    });
    assert!(result.unwrap_err().ends_with("a Hooks message when none was due"));
    assert!(done.hooks.is_empty());
}

#[test]
fn descriptors_that_no_message_takes_are_closed_and_refused() {
    let (mut reader, writer) = io::pipe().unwrap();
    let text = refused(move |_, process| {
        process.send(&SetupMessage::Detail("x".into()), &[writer.as_raw_fd()]).unwrap();
    });
    let expected =
        "the container's process sent 1 descriptors with a Detail message, which takes 0";
    assert_eq!(text, expected);
    // The end of the file shows that none is left open.
    assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    let text = refused(|_, process| process.send(&compile(), &[]).unwrap());
    assert!(text.ends_with("0 descriptors with a Compile message, which takes 1"), "{text}");
    let text = refused(|host, _| {
        let null = File::open("/dev/null").unwrap();
        host.send(&HostReply::Forked { pid: 2 }, &[null.as_raw_fd()]).unwrap();
    });
    assert!(text.ends_with("1 descriptors with a Forked message, which takes 0"), "{text}");
}

#[test]
fn details_are_bounded_in_number_and_length_and_messages_in_number() {
    let failed = || HostReply::Failed(Failure::new(FailureKind::System, "in the end"));
    let text = refused(move |host, process| {
        for number in 0..20 {
            let text = format!("failed to {number} \x1b[31m\r{}", "x".repeat(5000));
            process.send(&SetupMessage::Detail(text), &[]).unwrap();
        }
        host.send(&failed(), &[]).unwrap();
    });
    assert!(text.starts_with("cannot 0  [31m xxx") && text.len() < 1100, "{text}");
    let text = refused(|_, process| {
        for _ in 0..=MESSAGES_MAX {
            // The daemon may have closed its end already.
            let _ = process.send(&SetupMessage::Detail(String::new()), &[]);
        }
    });
    assert_eq!(text, "the container's process sent too many messages");
}

#[test]
fn a_reason_is_cut_and_has_no_control_characters() {
    let long = format!("a\u{1b}[2J\nb\u{9b}c{}", "é".repeat(100_000));
    let failure = Failure { kind: FailureKind::NotFound, message: long };
    let reason = failure.clone();
    let text = refused(move |host, process| {
        process.send(&SetupMessage::Failed(reason), &[]).unwrap();
        host.send(&HostReply::Failed(Failure::new(FailureKind::System, "x")), &[]).unwrap();
    });
    assert!(text.starts_with("a [2J b cé") && text.len() < 1100, "{text}");
    let text = refused(move |host, _| host.send(&HostReply::Failed(failure), &[]).unwrap());
    assert!(text.starts_with("a [2J b cé") && text.len() < 1100, "{text}");
}

#[test]
fn after_start_a_failure_is_taken_and_nothing_else() {
    let packet = |message, fds| start_failure(Packet { message, fds }).message;
    let failed = || SetupMessage::Failed(Failure::new(FailureKind::NotFound, "no\tsuch program"));
    assert_eq!(packet(failed(), Vec::new()), "no such program");
    let text = packet(compile(), vec![File::open("/dev/null").unwrap().into()]);
    assert_eq!(
        text,
        "the container's process sent 1 descriptors with a Compile message, which takes 0"
    );
    let text = packet(SetupMessage::Hooks { pid: 2 }, Vec::new());
    assert_eq!(text, "the container's process sent a Hooks message when none was due");
}
