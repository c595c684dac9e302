//! The messages of the engine host and of the process that it sets up, validated like any input:
//! either may be under the control of an image by then.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use wherry_engine::Start;
use wherry_protocol::error_text::sentence;
use wherry_protocol::failure::shortened;
use wherry_protocol::{
    Channel, Failure, FailureKind, HostReply, HostRequest, Packet, SetupMessage, SetupReply,
};
use wherry_sys::process::{Pid, Process, Ticks};
use wherry_sys::reaper::{NotNew, Reaper};

/// The sender of a [`SetupMessage`], in a sentence.
pub(crate) const PROCESS: &str = "the container's process";
/// The most details that are kept; the first are the closest to the fault.
const DETAILS_MAX: usize = 16;
/// The most messages in all: each may be sent once, except details.
const MESSAGES_MAX: usize = 64;

/// What the daemon does on request while a process is set up.
pub(crate) trait SetupService {
    /// Answers [`SetupMessage::Compile`] with the compiled code of `module`, under the engine's
    /// compile key or the key of baseline code, if it can start under the conditions `start`. The
    /// error is a sentence for the user.
    fn compile(
        &mut self,
        module: &File,
        key: &str,
        baseline: Option<&str>,
        start: &[String],
    ) -> Result<File, String>;

    /// Answers [`SetupMessage::Hooks`]. `pid` is the container's first process.
    fn run_hooks(&mut self, pid: i32) -> Result<(), Failure>;

    /// Answers [`SetupMessage::Cgroup`].
    fn create_cgroup(&mut self) -> Result<(), Failure>;
}

/// A process that exists. A container's first one waits for Start; any other runs.
#[derive(Debug)]
pub struct Forked {
    /// The process, a child of this process. Its pidfd was opened before it could be reaped.
    pub process: Process,
    /// The channel on which the process reports how its start went.
    pub setup: Channel,
    /// The daemon's end of the terminal, if the process has one.
    pub console: Option<OwnedFd>,
}

/// Why a message is invalid. Its sender may be hostile, and the conversation ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("too many messages")]
    TooMany,
    #[error("a {0} message when none was due")]
    Unexpected(&'static str),
    #[error("{count} descriptors with a {message} message, which takes {expected}")]
    Descriptors { message: &'static str, count: usize, expected: usize },
    #[error("a {message} message with a pid that cannot be right: {source}")]
    Pid { message: &'static str, source: NotNew },
}

impl Invalid {
    /// The failure of the request, caused by `sender`.
    pub(crate) fn of(self, sender: &str) -> Failure {
        Failure::new(FailureKind::System, format!("{sender} sent {self}"))
    }
}

/// The conversation about one request.
pub(crate) struct Conversation<'a> {
    host: Option<Pid>,
    since: Ticks,
    setup: Channel,
    reaper: &'a Reaper,
    service: &'a mut dyn SetupService,
    received: Received,
}

/// The messages received so far.
#[derive(Default)]
struct Received {
    messages: usize,
    cgroup: bool,
    hooks: bool,
    compile: bool,
    reason: Option<Failure>,
    details: Vec<String>,
}

impl<'a> Conversation<'a> {
    /// A conversation about a request that was sent to `host`, not before `since`.
    pub(crate) fn new(
        request: &HostRequest,
        host: Option<Pid>,
        since: Ticks,
        setup: Channel,
        reaper: &'a Reaper,
        service: &'a mut dyn SetupService,
    ) -> Conversation<'a> {
        // A process that joins a container creates no cgroup, and no hooks are due.
        let joins = matches!(request, HostRequest::Exec(_));
        let received = Received { cgroup: joins, hooks: joins, ..Received::default() };
        Conversation { host, since, setup, reaper, service, received }
    }

    /// The channel to the process.
    pub(crate) fn setup(&self) -> &Channel {
        &self.setup
    }

    /// Validates a message and answers it. An error ends the conversation.
    pub(crate) fn answer(&mut self, packet: Packet<SetupMessage>) -> Result<(), Invalid> {
        self.received.messages += 1;
        if self.received.messages > MESSAGES_MAX {
            return Err(Invalid::TooMany);
        }
        let Packet { message, fds } = packet;
        let name = name(&message);
        let failed = matches!(message, SetupMessage::Failed(_) | SetupMessage::Detail(_));
        if self.received.reason.is_some() && !failed {
            return Err(Invalid::Unexpected(name));
        }
        let expected = usize::from(matches!(message, SetupMessage::Compile { .. }));
        let fds = descriptors(name, fds, expected)?;
        match message {
            SetupMessage::Failed(failure) => {
                self.received.reason.get_or_insert(sanitised(failure));
            }
            SetupMessage::Detail(text) => {
                if self.received.details.len() < DETAILS_MAX {
                    self.received.details.push(sanitise(&text));
                }
            }
            SetupMessage::Cgroup => {
                // The host asks before there is a process.
                let due = !self.received.hooks && !self.received.compile;
                first(&mut self.received.cgroup, name, due)?;
                let result = self.service.create_cgroup();
                self.proceed_unless(result.err());
            }
            SetupMessage::Hooks { pid } => self.hooks(name, pid)?,
            SetupMessage::Compile { key, baseline, start } => {
                first(&mut self.received.compile, name, true)?;
                let module = fds.into_iter().next().map(File::from);
                let code = match &module {
                    Some(_) if Start::from_args(&start).is_none() => {
                        Err(format!("invalid conditions of a start: {start:?}"))
                    }
                    Some(module) => self.service.compile(module, &key, baseline.as_deref(), &start),
                    None => Err("the module is missing".to_owned()),
                };
                match code {
                    Ok(code) => self.send(&SetupReply::Compiled, Some(&code)),
                    Err(text) => self.send(&SetupReply::Refused(text), None),
                }
            }
        }
        Ok(())
    }

    fn hooks(&mut self, name: &'static str, pid: i32) -> Result<(), Invalid> {
        // Due before the process enters its root filesystem, and so before it searches its program.
        first(&mut self.received.hooks, name, !self.received.compile)?;
        let process = self.new_child(name, pid)?;
        if process.has_ended() {
            let source = Pid::new(pid).map_or(NotNew::Number(pid), NotNew::Ended);
            return Err(Invalid::Pid { message: name, source });
        }
        let result = self.service.run_hooks(process.pid());
        self.proceed_unless(result.err());
        Ok(())
    }

    fn proceed_unless(&mut self, failure: Option<Failure>) {
        match &failure {
            None => self.send(&SetupReply::Proceed, None),
            Some(failure) => self.send(&SetupReply::Refused(failure.message.clone()), None),
        }
        self.received.reason = failure;
    }

    /// Validates the host's reply, and returns the process, or the reason of the failure.
    pub(crate) fn conclude(
        self,
        packet: Packet<HostReply>,
        request: &HostRequest,
    ) -> Result<Result<Forked, Failure>, Invalid> {
        let Packet { message, fds } = packet;
        match message {
            HostReply::Failed(failure) => {
                descriptors("Failed", fds, 0)?;
                let Received { reason, mut details, .. } = self.received;
                Ok(Err(match reason {
                    Some(reason) => reason,
                    None if details.is_empty() => sanitised(failure),
                    None => {
                        // The error that libcontainer returned comes last and may hold the cause.
                        details.push(sanitise(&failure.message));
                        let text = sentence(&details, request.cwd());
                        Failure::new(failure.kind, text.unwrap_or(failure.message))
                    }
                }))
            }
            HostReply::Forked { pid } => {
                let expected = usize::from(request.terminal());
                let console = descriptors("Forked", fds, expected)?.into_iter().next();
                // The process was forked and could not be executed.
                if let Some(reason) = self.received.reason {
                    return Ok(Err(reason));
                }
                let process = self.new_child("Forked", pid)?;
                Ok(Ok(Forked { process, setup: self.setup, console }))
            }
        }
    }

    fn new_child(&self, message: &'static str, pid: i32) -> Result<Process, Invalid> {
        self.reaper
            .new_child(pid, self.host, self.since)
            .map_err(|source| Invalid::Pid { message, source })
    }

    fn send(&self, answer: &SetupReply, file: Option<&File>) {
        let fds: Vec<i32> = file.map(AsRawFd::as_raw_fd).into_iter().collect();
        // If the process has ended meanwhile, the host reports why.
        let _ = self.setup.send(answer, &fds);
    }
}

/// Why a process did not start. After Start, its failure is the only valid message.
pub(crate) fn start_failure(packet: Packet<SetupMessage>) -> Failure {
    let Packet { message, fds } = packet;
    let name = name(&message);
    let invalid = match (descriptors(name, fds, 0), message) {
        (Ok(_), SetupMessage::Failed(failure)) => return sanitised(failure),
        (Ok(_), _) => Invalid::Unexpected(name),
        (Err(invalid), _) => invalid,
    };
    invalid.of(PROCESS)
}

fn name(message: &SetupMessage) -> &'static str {
    match message {
        SetupMessage::Compile { .. } => "Compile",
        SetupMessage::Cgroup => "Cgroup",
        SetupMessage::Hooks { .. } => "Hooks",
        SetupMessage::Failed(_) => "Failed",
        SetupMessage::Detail(_) => "Detail",
    }
}

/// Records a message that may be sent once, while it is due.
fn first(received: &mut bool, name: &'static str, due: bool) -> Result<(), Invalid> {
    if *received || !due {
        return Err(Invalid::Unexpected(name));
    }
    *received = true;
    Ok(())
}

/// The descriptors of a message that takes `expected` of them. Otherwise all are closed.
fn descriptors(
    message: &'static str,
    fds: Vec<OwnedFd>,
    expected: usize,
) -> Result<Vec<OwnedFd>, Invalid> {
    let count = fds.len();
    if count == expected { Ok(fds) } else { Err(Invalid::Descriptors { message, count, expected }) }
}

/// A received text as part of a sentence: of bounded length, without control characters that a
/// terminal or a log would interpret.
fn sanitise(text: &str) -> String {
    // Shortened first: the part that is cut out need not be scanned.
    let text = shortened(text.to_owned());
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn sanitised(failure: Failure) -> Failure {
    Failure { message: sanitise(&failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::process::Command;

    use wherry_bundle::{Bundle, SetupLock};
    use wherry_protocol::{CreateRequest, RuntimeOptions, Stdio};

    use crate::launch::Host;

    /// The service of a test: counts the requests.
    #[derive(Default)]
    struct Done {
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
        ) -> Result<File, String> {
            self.compiled += 1;
            Ok(File::open("/dev/null").unwrap())
        }

        fn run_hooks(&mut self, pid: i32) -> Result<(), Failure> {
            self.hooks.push(pid);
            Ok(())
        }

        fn create_cgroup(&mut self) -> Result<(), Failure> {
            self.cgroups += 1;
            Ok(())
        }
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
        let request = HostRequest::Create(CreateRequest {
            id: "x".into(),
            bundle: directory.path().into(),
            rootfs: Vec::new(),
            cwd: "/".into(),
            terminal: false,
            systemd_cgroup: false,
            pod_files: None,
            options: RuntimeOptions::default(),
            module_max: 1 << 20,
        });
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
            let expected =
                "the container's process sent a Hooks message with a pid that cannot be right: ";
            assert!(text.starts_with(expected), "{text}");
            assert!(done.hooks.is_empty());
            let text = refused(move |host, _| host.send(&HostReply::Forked { pid }, &[]).unwrap());
            let expected =
                "the engine host sent a Forked message with a pid that cannot be right: ";
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
        let failed =
            || SetupMessage::Failed(Failure::new(FailureKind::NotFound, "no\tsuch program"));
        assert_eq!(packet(failed(), Vec::new()), "no such program");
        let text = packet(compile(), vec![File::open("/dev/null").unwrap().into()]);
        assert_eq!(
            text,
            "the container's process sent 1 descriptors with a Compile message, which takes 0"
        );
        let text = packet(SetupMessage::Hooks { pid: 2 }, Vec::new());
        assert_eq!(text, "the container's process sent a Hooks message when none was due");
    }
}
