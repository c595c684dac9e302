//! The messages of the engine host and of the process that it sets up, validated as untrusted
//! input: an image may control either of them by then.

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

use crate::code::CodeError;

/// The sender of a [`SetupMessage`], in a sentence.
pub(crate) const PROCESS: &str = "the container's process";
/// The most details that are kept; the first are the closest to the fault.
const DETAILS_MAX: usize = 16;
/// The maximum number of messages: each may be sent once, except details.
const MESSAGES_MAX: usize = 64;

/// What the daemon does on request while a process is set up.
pub(crate) trait SetupService {
    /// Answers [`SetupMessage::Compile`] with the compiled code of `module`, under the engine's
    /// compile key or the key of baseline code, if it can start under the conditions `start`.
    fn compile(
        &mut self,
        module: &File,
        key: &str,
        baseline: Option<&str>,
        start: &[String],
    ) -> Result<File, CodeError>;

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
    #[error("a {message} message with an invalid pid: {source}")]
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
    /// The engine does not run the module.
    refused: bool,
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
                let refused = self.received.refused;
                let kind = if refused { FailureKind::Unsupported } else { failure.kind };
                self.received.reason.get_or_insert(sanitised(Failure { kind, ..failure }));
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
                    Some(_) if Start::from_args(&start).is_none() => Err(CodeError::Start(start)),
                    Some(module) => self.service.compile(module, &key, baseline.as_deref(), &start),
                    None => Err(CodeError::NoModule),
                };
                match code {
                    Ok(code) => self.send(&SetupReply::Compiled, Some(&code)),
                    // Shortened: a text that does not fit into a message would leave the process
                    // without an answer.
                    Err(error) => {
                        self.received.refused = error.is_refusal();
                        self.send(&SetupReply::Refused(shortened(error.to_string())), None);
                    }
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

/// Returns why a process did not start. After Start, its failure is the only valid message.
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

/// Returns the descriptors of a message that takes `expected` of them. If the number is wrong, all
/// are closed.
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
mod tests;
