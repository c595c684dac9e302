//! Creating and starting a container: the daemon's side of the conversation with an engine host
//! and with the guest that it forks. Everything here blocks; the daemon calls it on threads of
//! their own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bundle::Bundle;
use crate::hooks::Batch;
use crate::making::Making;
use crate::process::{Pid, Process, Reaper, Ticks};
use crate::protocol::{Channel, Failure, FailureKind, FromGuest, HostReply, HostRequest};
use crate::readonly;
use crate::stdio::GuestEnds;
use crate::talk::{self, Talk};

/// The engine host's executable, `wherry-E-host`: an engine without its compiler.
#[derive(Debug, Clone)]
pub struct HostProgram(PathBuf);

impl HostProgram {
    /// Looks for `wherry-<engine>-host` beside this executable, in `../libexec/wherry` from there, and
    /// in PATH.
    ///
    /// # Errors
    /// When it is nowhere; the text says what was looked for and where.
    pub fn find(engine: &str) -> Result<HostProgram, Failure> {
        let name = format!("wherry-{engine}-host");
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent);
        let mut places: Vec<PathBuf> = Vec::new();
        places.extend(beside.map(Path::to_owned));
        places.extend(beside.and_then(Path::parent).map(|up| up.join("libexec/wherry")));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = places
            .iter()
            .cloned()
            .chain(std::env::split_paths(&path))
            .map(|place| place.join(&name))
            .find(|candidate| candidate.is_file());
        found.map(HostProgram).ok_or_else(|| {
            let places: Vec<String> =
                places.iter().map(|place| place.display().to_string()).collect();
            Failure::new(
                FailureKind::System,
                format!(
                    "the engine host {name} is missing: looked in {} and PATH",
                    places.join(", ")
                ),
            )
        })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// A running engine host.
#[derive(Debug)]
pub struct Host {
    channel: Channel,
    /// None: it is not a child of this process.
    pid: Option<Pid>,
}

/// A process that exists. A container's first one waits for Start; any other runs.
#[derive(Debug)]
pub struct Forked {
    /// The process, a child of the daemon. It was opened when it could not yet be another of the same number.
    pub process: Process,
    /// On which the guest says how its start went.
    pub guest: Channel,
    /// The daemon's end of its terminal, if it has one.
    pub console: Option<OwnedFd>,
}

/// Runs the hooks that are due when a container's namespaces are there, given its first process.
pub type RunHooks<'a> = &'a mut dyn FnMut(i32) -> Result<(), Failure>;

/// Makes a container's cgroup.
pub type MakeCgroup<'a> = &'a mut dyn FnMut() -> Result<(), String>;

/// Returns the compiled code of a module. The arguments are the module, the engine's compile key, the
/// key of baseline code, and the conditions of the start.
pub type Compile<'a> =
    &'a mut dyn FnMut(&File, &str, Option<&str>, &[String]) -> Result<File, String>;

/// What the daemon does on request while a process is made.
pub struct Service<'a> {
    /// Collects the daemon's children, of which the process is to be one.
    pub reaper: &'a Reaper,
    /// Answers [`FromGuest::Compile`].
    pub compile: Compile<'a>,
    /// Answers [`FromGuest::Hooks`].
    pub hooks: RunHooks<'a>,
    /// Answers [`FromGuest::Cgroup`].
    pub make_cgroup: MakeCgroup<'a>,
}

impl Host {
    /// Starts an engine host. It begins to load its engine at once.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn(program: &HostProgram) -> io::Result<Host> {
        let (ours, theirs) = Channel::pair()?;
        let score = crate::daemon::inherited_oom_score_adj();
        let mut command = Command::new(readonly::view(&program.0)?);
        command.args(["host", score]).current_dir("/").env_clear();
        // Short, and with something behind it: see `title`.
        command.arg0("wherry").env("TITLE", "-".repeat(crate::host::title::ROOM));
        // As `host::Own` expects them. Where nothing is to be done between fork and exec there is no fork, but a vfork: no
        // memory to be copied.
        command.stdin(theirs.into_fd()).stderr(Stdio::null());
        command.stdout(crate::log::another().map_or_else(Stdio::null, Stdio::from));
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::new);
        Ok(Host { channel: ours, pid })
    }

    /// A host at the other end of `channel` that another process has started.
    #[must_use]
    pub fn over(channel: Channel) -> Host {
        Host { channel, pid: None }
    }

    /// Creates a container, or executes another process in one. `making`: let go of when all who
    /// make it are done. `ends`: its streams, unless it has a terminal.
    ///
    /// # Errors
    /// With the guest's own reason where it gave one. What was mounted or made for a container is
    /// still there: [`crate::cleanup::container`] removes it.
    pub fn fork(
        &self,
        request: &HostRequest,
        making: Making,
        ends: Option<GuestEnds>,
        service: Service<'_>,
    ) -> Result<Forked, Failure> {
        let since = Ticks::now().map_err(system)?;
        let (guest, theirs) = Channel::pair().map_err(system)?;
        let mut fds = vec![theirs.as_raw_fd(), making.0.as_raw_fd()];
        fds.extend(ends.iter().flat_map(|ends| &ends.fds).map(AsRawFd::as_raw_fd));
        let terminal = ends.is_none();
        self.channel.send(request, &fds).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Failure::new(
                FailureKind::Invalid,
                "the request is larger than an engine host takes",
            ),
            _ => host_gone(error),
        })?;
        drop((theirs, making, ends));
        let mut talk = Talk::new(request, self.pid, since, guest, service);
        loop {
            let (host, spoken) = wait(&self.channel, &talk.guest).map_err(system)?;
            // The guest knows more than the host, so its messages come first.
            if spoken {
                match talk.guest.receive::<FromGuest>() {
                    Ok(Some(packet)) => {
                        talk.answer(packet).map_err(|unfit| unfit.of(talk::PROCESS))?;
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
        talk.conclude(packet, terminal, request.cwd())
            .unwrap_or_else(|unfit| Err(unfit.of("the engine host")))
    }
}

/// Lets the guest run, and waits until it does: until it closes its channel. Then runs the hooks
/// in `after`, whose state has `pid`. Must be called within the runtime.
///
/// # Errors
/// When it could not be executed, with the guest's reason.
pub fn start(
    bundle: &Bundle,
    guest: &Channel,
    after: &Batch,
    pid: i32,
    reaper: &Reaper,
) -> Result<(), Failure> {
    notify(&bundle.state().join(libcontainer::notify_socket::NOTIFY_FILE))
        .map_err(|error| system(io::Error::new(error.kind(), format!("cannot start: {error}"))))?;
    match guest.receive::<FromGuest>() {
        Ok(Some(packet)) => Err(talk::last_word(packet)),
        Ok(None) => after.run(Some(pid), Some(reaper)),
        Err(error) => Err(system(error)),
    }
}

/// Tells libcontainer's first process to go on. Its own call changes the working directory, which
/// belongs to the whole process.
fn notify(socket: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The path is longer than the address of a socket may be.
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    UnixStream::connect(short)?.write_all(b"start container")
}

/// Waits until the host or the guest has something to read, or is gone.
fn wait(host: &Channel, guest: &Channel) -> io::Result<(bool, bool)> {
    let fds = [host.as_fd(), guest.as_fd()];
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let [host, guest] = fds.map(|fd| fd.any().unwrap_or(true));
    Ok((host, guest))
}

fn system(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}

fn host_gone(error: io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("the engine host ended early: {error}"))
}
