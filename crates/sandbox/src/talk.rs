//! What a process of a container sends before Start, and what the engine host replies, checked like any input: either may be
//! under the control of an image by then.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use wherry_engine::Start;

use crate::explain::sentence;
use crate::launch::{Forked, Service};
use crate::process::{Pid, Process, Ticks};
use crate::protocol::{
    Channel, Failure, FailureKind, FromGuest, HostReply, HostRequest, Packet, ToGuest, shortened,
};

/// Who sends a [`FromGuest`], in a sentence.
pub(crate) const PROCESS: &str = "the container's process";
/// The most details that are taken; the first are the nearest to the fault.
const DETAILS_MAX: usize = 16;
/// The most messages that are taken in all: each is asked for once, but for details.
const MESSAGES_MAX: usize = 64;

/// Why a message was refused. The sender may be under the control of an image, and is not asked again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("too many messages")]
    Many,
    #[error("a {0} message when none was due")]
    Unasked(&'static str),
    #[error("{count} descriptors with a {message} message, which takes {expected}")]
    Descriptors { message: &'static str, count: usize, expected: usize },
    #[error("a {message} message with a pid that cannot be right: {cause}")]
    Pid { message: &'static str, cause: String },
}

impl Unfit {
    /// The failure of the request, by the sender.
    pub(crate) fn of(self, sender: &str) -> Failure {
        Failure::new(FailureKind::System, format!("{sender} sent {self}"))
    }
}

/// The conversation with the process on its way, and with the host.
pub(crate) struct Talk<'a> {
    host: Option<Pid>,
    since: Ticks,
    pub(crate) guest: Channel,
    service: Service<'a>,
    said: Said,
}

/// What has been received so far.
#[derive(Default)]
struct Said {
    messages: usize,
    cgroup: bool,
    hooks: bool,
    compile: bool,
    reason: Option<Failure>,
    details: Vec<String>,
}

impl<'a> Talk<'a> {
    /// A conversation about a request that was sent to `host`, not before `since`.
    pub(crate) fn new(
        request: &HostRequest,
        host: Option<Pid>,
        since: Ticks,
        guest: Channel,
        service: Service<'a>,
    ) -> Talk<'a> {
        // A process that joins a container makes no cgroup, and no hooks are due.
        let joins = matches!(request, HostRequest::Exec(_));
        let said = Said { cgroup: joins, hooks: joins, ..Said::default() };
        Talk { host, since, guest, service, said }
    }

    /// Checks a message and answers it. An error ends the conversation.
    pub(crate) fn answer(&mut self, packet: Packet<FromGuest>) -> Result<(), Unfit> {
        self.said.messages += 1;
        if self.said.messages > MESSAGES_MAX {
            return Err(Unfit::Many);
        }
        let Packet { message, fds } = packet;
        let name = name(&message);
        let failed = matches!(message, FromGuest::Failed(_) | FromGuest::Detail(_));
        if self.said.reason.is_some() && !failed {
            return Err(Unfit::Unasked(name));
        }
        let fds =
            descriptors(name, fds, usize::from(matches!(message, FromGuest::Compile { .. })))?;
        match message {
            FromGuest::Failed(failure) => {
                self.said.reason.get_or_insert(cleaned(failure));
            }
            FromGuest::Detail(text) => {
                if self.said.details.len() < DETAILS_MAX {
                    self.said.details.push(clean(&text));
                }
            }
            FromGuest::Cgroup => {
                // The host asks before there is a process.
                first(&mut self.said.cgroup, name, !self.said.hooks && !self.said.compile)?;
                let made = (self.service.make_cgroup)();
                self.send(&made.map_or_else(ToGuest::Refused, |()| ToGuest::GoOn), None);
            }
            FromGuest::Hooks { pid } => {
                // They are due before the process enters its root filesystem, and so before it looks for its program.
                first(&mut self.said.hooks, name, !self.said.compile)?;
                let process = self.new_child(name, pid)?;
                if process.has_ended() {
                    let cause = format!("process {pid} has ended");
                    return Err(Unfit::Pid { message: name, cause });
                }
                self.said.reason = (self.service.hooks)(process.pid()).err();
                let answer = match &self.said.reason {
                    None => ToGuest::GoOn,
                    Some(failure) => ToGuest::Refused(failure.message.clone()),
                };
                self.send(&answer, None);
            }
            FromGuest::Compile { key, quick, start } => {
                first(&mut self.said.compile, name, true)?;
                let module = fds.into_iter().next().map(File::from);
                let code = match &module {
                    Some(_) if Start::from_args(&start).is_none() => {
                        Err(format!("invalid conditions of a start: {start:?}"))
                    }
                    Some(module) => (self.service.compile)(module, &key, quick.as_deref(), &start),
                    None => Err("the module is missing".to_owned()),
                };
                match code {
                    Ok(code) => self.send(&ToGuest::Compiled, Some(&code)),
                    Err(text) => self.send(&ToGuest::Refused(text), None),
                }
            }
        }
        Ok(())
    }

    /// Checks the host's reply, and returns the process, or why there is none.
    pub(crate) fn conclude(
        self,
        packet: Packet<HostReply>,
        terminal: bool,
        cwd: &Path,
    ) -> Result<Result<Forked, Failure>, Unfit> {
        let Packet { message, fds } = packet;
        match message {
            HostReply::Failed(failure) => {
                descriptors("Failed", fds, 0)?;
                let Said { reason, mut details, .. } = self.said;
                Ok(Err(match reason {
                    Some(reason) => reason,
                    None if details.is_empty() => cleaned(failure),
                    None => {
                        // It is the last that was said, and may know a cause.
                        details.push(clean(&failure.message));
                        Failure::new(failure.kind, sentence(&details, cwd).unwrap_or_default())
                    }
                }))
            }
            HostReply::Forked { pid } => {
                let console = descriptors("Forked", fds, usize::from(terminal))?.into_iter().next();
                // A process that was forked and then could not be executed is none.
                if let Some(reason) = self.said.reason {
                    return Ok(Err(reason));
                }
                let process = self.new_child("Forked", pid)?;
                Ok(Ok(Forked { process, guest: self.guest, console }))
            }
        }
    }

    fn new_child(&self, message: &'static str, pid: i32) -> Result<Process, Unfit> {
        self.service
            .reaper
            .new_child(pid, self.host, self.since)
            .map_err(|error| Unfit::Pid { message, cause: error.to_string() })
    }

    /// Sends an answer. A process that has gone meanwhile needs none: the host sends why.
    fn send(&self, answer: &ToGuest, file: Option<&File>) {
        let fds: Vec<i32> = file.map(AsRawFd::as_raw_fd).into_iter().collect();
        let _ = self.guest.send(answer, &fds);
    }
}

/// Why a process that has been let run does not: the one message that is due from then on is its failure.
pub(crate) fn last_word(packet: Packet<FromGuest>) -> Failure {
    let Packet { message, fds } = packet;
    let name = name(&message);
    let unfit = match (descriptors(name, fds, 0), message) {
        (Ok(_), FromGuest::Failed(failure)) => return cleaned(failure),
        (Ok(_), _) => Unfit::Unasked(name),
        (Err(unfit), _) => unfit,
    };
    unfit.of(PROCESS)
}

fn name(message: &FromGuest) -> &'static str {
    match message {
        FromGuest::Compile { .. } => "Compile",
        FromGuest::Cgroup => "Cgroup",
        FromGuest::Hooks { .. } => "Hooks",
        FromGuest::Failed(_) => "Failed",
        FromGuest::Detail(_) => "Detail",
    }
}

/// Notes a message that is sent once, while it is due.
fn first(noted: &mut bool, name: &'static str, due: bool) -> Result<(), Unfit> {
    if *noted || !due {
        return Err(Unfit::Unasked(name));
    }
    *noted = true;
    Ok(())
}

/// The descriptors of a message that takes this many. Others are closed.
fn descriptors(
    message: &'static str,
    fds: Vec<OwnedFd>,
    expected: usize,
) -> Result<Vec<OwnedFd>, Unfit> {
    let count = fds.len();
    if count == expected { Ok(fds) } else { Err(Unfit::Descriptors { message, count, expected }) }
}

/// A received text as a part of a sentence: of bounded length, and without what a terminal or a log would take for a
/// command or a line of its own.
fn clean(text: &str) -> String {
    // The rest would be cut out below, but is not worth a look at each of its letters.
    let text = shortened(text.to_owned());
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn cleaned(failure: Failure) -> Failure {
    Failure { message: clean(&failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::PathBuf;
    use std::process::Command;

    use crate::bundle::Bundle;
    use crate::launch::Host;
    use crate::making::Making;
    use crate::process::Reaper;
    use crate::protocol::CreateRequest;
    use crate::stdio::GuestEnds;

    /// What came of a conversation.
    #[derive(Default)]
    struct Done {
        compiled: usize,
        hooks: Vec<i32>,
        cgroups: usize,
    }

    /// Has the host and the guest of a test at the other ends send what they will, and returns what the daemon made of it.
    fn conversation(
        speak: impl FnOnce(&Channel, &Channel) + Send + 'static,
    ) -> (Result<i32, String>, Done) {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = Channel::pair().unwrap();
        let speaker = std::thread::spawn(move || {
            let Packet { fds, .. } = theirs.receive::<HostRequest>().unwrap().unwrap();
            let guest = Channel::from_fd(fds.into_iter().next().unwrap());
            speak(&theirs, &guest);
        });
        let null = || File::open("/dev/null").unwrap().into();
        let ends = GuestEnds { fds: [null(), null(), null()] };
        let making = Making::begin(&Bundle::new(directory.path(), "x")).unwrap();
        let mut done = Done::default();
        let Done { compiled, hooks, cgroups } = &mut done;
        let service = Service {
            reaper: &Reaper::default(),
            compile: &mut |_, _, _, _| {
                *compiled += 1;
                Ok(File::open("/dev/null").unwrap())
            },
            hooks: &mut |pid| {
                hooks.push(pid);
                Ok(())
            },
            make_cgroup: &mut || {
                *cgroups += 1;
                Ok(())
            },
        };
        let request = HostRequest::Create(CreateRequest {
            id: "x".into(),
            bundle: directory.path().into(),
            rootfs: Vec::new(),
            cwd: "/".into(),
            terminal: false,
            systemd_cgroup: false,
            no_pivot: false,
            io_uid: 0,
            io_gid: 0,
            plugins: PathBuf::new(),
            no_engine_seccomp: false,
            module_max: 1 << 20,
        });
        let forked = Host::over(ours).fork(&request, making, Some(ends), service);
        let result = forked.map(|forked| forked.process.pid()).map_err(|failure| failure.message);
        speaker.join().unwrap();
        (result, done)
    }

    fn refused(speak: impl FnOnce(&Channel, &Channel) + Send + 'static) -> String {
        conversation(speak).0.unwrap_err()
    }

    fn compile() -> FromGuest {
        FromGuest::Compile { key: "k".into(), quick: None, start: Start::default().to_args() }
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
        let (result, done) = conversation(move |host, guest| {
            let child = Child::start();
            guest.send(&FromGuest::Cgroup, &[]).unwrap();
            guest.receive::<ToGuest>().unwrap().unwrap();
            guest.send(&FromGuest::Hooks { pid: child.pid() }, &[]).unwrap();
            guest.receive::<ToGuest>().unwrap().unwrap();
            let module = File::open("/dev/null").unwrap();
            guest.send(&compile(), &[module.as_raw_fd()]).unwrap();
            let answer = guest.receive::<ToGuest>().unwrap().unwrap();
            assert!(matches!(answer.message, ToGuest::Compiled) && answer.fds.len() == 1);
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
            let (result, done) = conversation(move |_, guest| {
                guest.send(&FromGuest::Hooks { pid }, &[]).unwrap();
                assert!(guest.receive::<ToGuest>().is_ok_and(|answer| answer.is_none()));
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
        let (result, done) = conversation(|_, guest| {
            let module = File::open("/dev/null").unwrap();
            for _ in 0..2 {
                guest.send(&compile(), &[module.as_raw_fd()]).unwrap();
            }
        });
        let text = "the container's process sent a Compile message when none was due";
        assert_eq!((result, done.compiled), (Err(text.to_owned()), 1));
        let text = refused(|_, guest| {
            guest.send(&FromGuest::Cgroup, &[]).unwrap();
            guest.send(&FromGuest::Cgroup, &[]).unwrap();
        });
        assert_eq!(text, "the container's process sent a Cgroup message when none was due");
    }

    #[test]
    fn hooks_after_the_program_was_found_are_refused() {
        let (result, done) = conversation(|_, guest| {
            let module = File::open("/dev/null").unwrap();
            let child = Child::start();
            guest.send(&compile(), &[module.as_raw_fd()]).unwrap();
            guest.receive::<ToGuest>().unwrap().unwrap();
            guest.send(&FromGuest::Hooks { pid: child.pid() }, &[]).unwrap();
            assert!(guest.receive::<ToGuest>().is_ok_and(|answer| answer.is_none()));
        });
        assert!(result.unwrap_err().ends_with("a Hooks message when none was due"));
        assert!(done.hooks.is_empty());
    }

    #[test]
    fn descriptors_that_no_message_takes_are_closed_and_refused() {
        let (mut reader, writer) = io::pipe().unwrap();
        let text = refused(move |_, guest| {
            guest.send(&FromGuest::Detail("x".into()), &[writer.as_raw_fd()]).unwrap();
        });
        let expected =
            "the container's process sent 1 descriptors with a Detail message, which takes 0";
        assert_eq!(text, expected);
        // The end of the file shows that none is left open.
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        let text = refused(|_, guest| guest.send(&compile(), &[]).unwrap());
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
        let text = refused(move |host, guest| {
            for number in 0..20 {
                let text = format!("failed to {number} \x1b[31m\r{}", "x".repeat(5000));
                guest.send(&FromGuest::Detail(text), &[]).unwrap();
            }
            host.send(&failed(), &[]).unwrap();
        });
        assert!(text.starts_with("cannot 0  [31m xxx") && text.len() < 1100, "{text}");
        let text = refused(|_, guest| {
            for _ in 0..=MESSAGES_MAX {
                // The daemon may have closed its end already.
                let _ = guest.send(&FromGuest::Detail(String::new()), &[]);
            }
        });
        assert_eq!(text, "the container's process sent too many messages");
    }

    #[test]
    fn a_reason_is_cut_and_has_no_control_characters() {
        let long = format!("a\u{1b}[2J\nb\u{9b}c{}", "é".repeat(100_000));
        let failure = Failure { kind: FailureKind::NotFound, message: long };
        let reason = failure.clone();
        let text = refused(move |host, guest| {
            guest.send(&FromGuest::Failed(reason), &[]).unwrap();
            host.send(&HostReply::Failed(Failure::new(FailureKind::System, "x")), &[]).unwrap();
        });
        assert!(text.starts_with("a [2J b cé") && text.len() < 1100, "{text}");
        let text = refused(move |host, _| host.send(&HostReply::Failed(failure), &[]).unwrap());
        assert!(text.starts_with("a [2J b cé") && text.len() < 1100, "{text}");
    }

    #[test]
    fn after_start_a_failure_is_taken_and_nothing_else() {
        let packet = |message, fds| last_word(Packet { message, fds }).message;
        let failed = || FromGuest::Failed(Failure::new(FailureKind::NotFound, "no\tsuch program"));
        assert_eq!(packet(failed(), Vec::new()), "no such program");
        let text = packet(compile(), vec![File::open("/dev/null").unwrap().into()]);
        assert_eq!(
            text,
            "the container's process sent 1 descriptors with a Compile message, which takes 0"
        );
        let text = packet(FromGuest::Hooks { pid: 2 }, Vec::new());
        assert_eq!(text, "the container's process sent a Hooks message when none was due");
    }
}
