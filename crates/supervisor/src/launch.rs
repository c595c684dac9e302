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
use wherry_protocol::message::Descriptors;
use wherry_protocol::{Channel, Failure, FailureKind, HostReply, HostRequest, SetupMessage, Stdio};
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
        let (ours, theirs) = Channel::pair()?;
        let score = daemon::inherited_oom_score_adj();
        let mut command = program.command()?;
        command.args(["host", score]).current_dir("/").env_clear();
        // The title begins at argv[0] and may extend over the environment.
        command.arg0("wherry").env("TITLE", "-".repeat(TITLE_ROOM));
        // Standard input is the channel, standard output the log: see the engine host. Without work
        // between fork and exec the standard library uses vfork, which copies no page tables.
        command.stdin(theirs.into_fd()).stderr(ProcessStdio::null());
        command.stdout(logger::duplicate().map_or_else(ProcessStdio::null, ProcessStdio::from));
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::new);
        Ok(Host { channel: ours, pid })
    }

    /// A host at the other end of `channel`, which another process has started.
    #[must_use]
    pub fn over(channel: Channel) -> Host {
        Host { channel, pid: None }
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
        let descriptors = Descriptors { setup: theirs, setup_lock: lock.into_fd(), stdio };
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
                    // It closed its end: the host sends the rest.
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
        conversation
            .conclude(packet, request)
            .unwrap_or_else(|invalid| Err(invalid.of("the engine host")))
    }
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
    let [host, process] = fds.map(|fd| fd.any().unwrap_or(true));
    Ok((host, process))
}

fn system(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}

fn host_gone(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("the engine host ended early: {error}"))
}
