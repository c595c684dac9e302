//! The engine host: finding and starting it, and the request that makes it fork a process.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wherry_bundle::hooks::Batch;
use wherry_bundle::{Bundle, SetupLock};
use wherry_protocol::message::{Descriptors, HOST};
use wherry_protocol::{Channel, Failure, FailureKind, HostReply, HostRequest, SetupMessage, Stdio};
use wherry_sys::measure::{self, Measurement};
use wherry_sys::process::{Pid, Ticks};
use wherry_sys::reaper::Reaper;
use wherry_sys::{daemon, logger};

use crate::conversation::{self, Conversation, Forked, SetupService};
use crate::program::Program;

/// Room for the process title, bytes: the engine host overwrites its environment with the guest's
/// command line.
const TITLE_ROOM: usize = 1024;

/// A running engine host.
#[derive(Debug)]
pub struct Host {
    channel: Channel,
    /// None if it is not a child of this process.
    pid: Option<Pid>,
}

impl Host {
    /// Starts an engine host, which loads its engine at once.
    ///
    /// # Errors
    /// If it cannot be executed.
    pub fn spawn(program: &Program) -> io::Result<Host> {
        let (channel, pid) = spawn(program, HOST)?;
        Ok(Host { channel, pid: Some(pid) })
    }

    /// The host `pid`, a child of this process that a zygote has forked.
    pub(crate) fn forked(channel: Channel, pid: Pid) -> Host {
        Host { channel, pid: Some(pid) }
    }

    /// A host at the other end of `channel`, which another process has started.
    #[must_use]
    pub fn over(channel: Channel) -> Host {
        Host { channel, pid: None }
    }

    /// Whether it still waits for a request: it sends nothing before that.
    pub(crate) fn waits(&self) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Sends a request and answers the host's and the process's messages until the process exists.
    ///
    /// # Errors
    /// With the reason that the process reported, if it did. Mounts and files that were created for
    /// the container stay: [`crate::cleanup::container`] removes them.
    pub(crate) fn fork(
        &self,
        request: &HostRequest,
        lock: SetupLock,
        stdio: Option<Stdio>,
        reaper: &Reaper,
        service: &mut dyn SetupService,
    ) -> Result<Forked, Failure> {
        let since = Ticks::now().map_err(system)?;
        let (setup, theirs) = Channel::pair().map_err(system)?;
        let log = logger::duplicate(request.id()).map_err(system)?;
        let descriptors = Descriptors { setup: theirs, setup_lock: lock.into_fd(), log, stdio };
        self.channel.send(request, &descriptors.as_raw()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EMSGSIZE) => Failure::new(
                    FailureKind::Invalid,
                    "the request is larger than 256 KiB: use fewer layers, arguments or variables",
                ),
                _ => host_gone(error),
            }
        })?;
        drop(descriptors);
        let mut conversation = Conversation::new(request, self.pid, since, setup, reaper, service);
        loop {
            let (host, process) = wait(&self.channel, conversation.setup()).map_err(system)?;
            // The process knows more than the host, so its messages come first.
            if process {
                match conversation.setup().receive::<SetupMessage>() {
                    Ok(Some(packet)) => {
                        conversation
                            .answer(packet)
                            .map_err(|invalid| invalid.of(conversation::PROCESS))?;
                    }
                    // The process closed its end: the remaining messages come from the host.
                    Ok(None) => break,
                    Err(error) => return Err(system(error)),
                }
            } else if host {
                break;
            }
        }
        let packet = match self.channel.receive::<HostReply>() {
            Ok(Some(packet)) => packet,
            Ok(None) => return Err(host_gone(io::ErrorKind::BrokenPipe.into())),
            Err(error) => return Err(host_gone(error)),
        };
        let forked = conversation
            .conclude(packet, request)
            .unwrap_or_else(|invalid| Err(invalid.of("the engine host")))?;
        let first = matches!(request, HostRequest::Create(_));
        measure::report(|| Measurement::Forked { first });
        Ok(forked)
    }
}

/// Executes the engine host's executable in a role. Returns its channel and its pid.
///
/// # Errors
/// If it cannot be executed.
pub(crate) fn spawn(program: &Program, role: &str) -> io::Result<(Channel, Pid)> {
    let (ours, theirs) = Channel::pair()?;
    let score = daemon::inherited_oom_score_adj();
    let mut command = program.command()?;
    command.args([role, score]).current_dir("/").env_clear();
    // The title begins at argv[0] and may extend over the environment.
    command.arg0("wherry").env("TITLE", "-".repeat(TITLE_ROOM));
    // Standard input is the channel: see the engine host. Without work between fork and exec the
    // standard library uses vfork, which copies no page tables.
    command.stdin(theirs.into_fd());
    command.stdout(ProcessStdio::null()).stderr(ProcessStdio::null());
    let child = command.spawn()?;
    let pid = Pid::of(&child);
    daemon::restore_descriptor_limit(pid);
    Ok((ours, pid))
}

/// Starts the guest and waits until it runs: until it closes its setup channel. Then runs the
/// poststart hooks, whose state has `pid`.
///
/// # Errors
/// If it cannot be executed, with the reason that the process reported.
pub fn start(
    bundle: &Bundle,
    setup: &Channel,
    poststart: &Batch,
    pid: i32,
    reaper: &Reaper,
) -> Result<(), Failure> {
    signal_start(&bundle.start_socket()).map_err(|error| {
        system(io::Error::new(error.kind(), format!("cannot start the container: {error}")))
    })?;
    match setup.receive::<SetupMessage>() {
        Ok(Some(packet)) => Err(conversation::start_failure(packet)),
        Ok(None) => poststart
            .run(Some(pid), Some(reaper))
            .map_err(|error| Failure::new(FailureKind::System, error.to_string())),
        Err(error) => Err(system(error)),
    }
}

/// Sends libcontainer's first process the message to start. libcontainer's own function changes the
/// working directory, which belongs to the whole process.
fn signal_start(socket: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Through a descriptor: the path may be longer than the 107 bytes of a socket's address.
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    UnixStream::connect(short)?.write_all(b"start container")
}

/// Waits until the host or the process has sent something, or has closed its end.
fn wait(host: &Channel, process: &Channel) -> io::Result<(bool, bool)> {
    let fds = [host.as_fd(), process.as_fd()];
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // Events that nix does not know are events too.
    let [host, process] = fds.map(|fd| fd.any().unwrap_or(true));
    Ok((host, process))
}

fn system(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}

fn host_gone(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("the engine host ended early: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use wherry_bundle::Config;
    use wherry_bundle::hooks::Moment;

    /// A container whose first process waits for Start: its bundle, and both ends of its channel.
    struct Waiting {
        bundle: Bundle,
        socket: UnixListener,
        setup: Channel,
        process: Channel,
        poststart: Batch,
        _directory: tempfile::TempDir,
    }

    impl Waiting {
        fn new(config: &str) -> Waiting {
            let directory = tempfile::tempdir().unwrap();
            // Longer than the 107 bytes of a socket's address.
            let path = directory.path().join("d".repeat(120));
            let bundle = Bundle::new(&path, "x");
            fs::create_dir_all(bundle.state()).unwrap();
            let short = directory.path().join("s");
            let socket = UnixListener::bind(&short).unwrap();
            fs::rename(short, bundle.start_socket()).unwrap();
            let (setup, process) = Channel::pair().unwrap();
            let config: Config = wherry_bundle::parse(config.as_bytes()).unwrap();
            let poststart = Batch::new(Moment::Poststart, &bundle, &config);
            Waiting { bundle, socket, setup, process, poststart, _directory: directory }
        }

        /// Starts it. `process` is its first process, once it has read the message.
        fn start(self, process: impl FnOnce(Channel) + Send) -> Result<(), Failure> {
            let Waiting { bundle, socket, setup, process: end, poststart, _directory } = self;
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut text = String::new();
                    socket.accept().unwrap().0.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "start container");
                    process(end);
                });
                let reaper = Reaper::default();
                start(&bundle, &setup, &poststart, 7, &reaper)
            })
        }
    }

    #[test]
    fn a_container_is_started_when_its_process_closes_the_channel() {
        Waiting::new("{}").start(drop).unwrap();
    }

    #[test]
    fn a_failure_between_start_and_the_guest_is_the_error_of_start() {
        let failure = Failure::new(FailureKind::NotExecutable, "exec /app: permission denied");
        let expected = failure.clone();
        let started = Waiting::new("{}").start(move |channel| {
            channel.send(&SetupMessage::Failed(failure), &[]).unwrap();
        });
        assert_eq!(started, Err(expected));
    }

    #[test]
    fn a_message_that_is_no_failure_after_start_is_an_error_of_start() {
        let started = Waiting::new("{}").start(|channel| {
            channel.send(&SetupMessage::Cgroup, &[]).unwrap();
        });
        let text = "the container's process sent a Cgroup message when none was due";
        assert_eq!(started.unwrap_err().message, text);
    }

    #[test]
    fn a_container_whose_process_waits_no_more_cannot_be_started() {
        let waiting = Waiting::new("{}");
        let Waiting { bundle, setup, poststart, .. } = &waiting;
        // The kernel refuses a connection to it, as to a socket that no process has open. Another
        // test may fork a process that has this test's socket open until its exec.
        fs::remove_file(bundle.start_socket()).unwrap();
        fs::write(bundle.start_socket(), "").unwrap();
        let failure = start(bundle, setup, poststart, 7, &Reaper::default()).unwrap_err();
        assert!(failure.message.starts_with("cannot start the container: "), "{}", failure.message);
        fs::remove_dir_all(bundle.path()).unwrap();
        let failure = start(bundle, setup, poststart, 7, &Reaper::default()).unwrap_err();
        assert!(failure.message.contains("No such file or directory"), "{}", failure.message);
    }
}
