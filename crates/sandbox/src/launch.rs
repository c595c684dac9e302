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
use crate::explain::sentence;
use crate::hooks::Batch;
use crate::making::Making;
use crate::process::{self, Reaper};
use crate::protocol::{Channel, Failure, FailureKind, FromGuest, HostReply, HostRequest, ToGuest};
use crate::readonly;
use crate::records::Records;
use crate::stdio::GuestEnds;

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
}

/// A process that exists. A container's first one waits for Start; any other runs.
#[derive(Debug)]
pub struct Forked {
    /// The process, a child of the daemon.
    pub pid: i32,
    /// On which the guest says how its start went.
    pub guest: Channel,
    /// The daemon's end of its terminal, if it has one.
    pub console: Option<OwnedFd>,
}

/// Runs the hooks that are due when a container's namespaces are there, given its first process.
pub type RunHooks<'a> = &'a mut dyn FnMut(i32) -> Result<(), Failure>;

/// Makes a container's cgroup.
pub type MakeCgroup<'a> = &'a mut dyn FnMut() -> Result<(), String>;

/// Gives the compiled code of a module, given the module, the engine's compile key, and that of code
/// which is made more quickly.
pub type Compile<'a> = &'a mut dyn FnMut(&File, &str, Option<&str>) -> Result<File, String>;

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
        command.spawn()?;
        Ok(Host::over(ours))
    }

    /// A host that somebody else has started, at the other end of `channel`.
    #[must_use]
    pub fn over(channel: Channel) -> Host {
        Host { channel }
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
        compile: Compile<'_>,
        hooks: RunHooks<'_>,
        make_cgroup: MakeCgroup<'_>,
    ) -> Result<Forked, Failure> {
        let (guest, theirs) = Channel::pair().map_err(system)?;
        let mut fds = vec![theirs.as_raw_fd(), making.0.as_raw_fd()];
        fds.extend(ends.iter().flat_map(|ends| &ends.fds).map(AsRawFd::as_raw_fd));
        self.channel.send(request, &fds).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Failure::new(
                FailureKind::Invalid,
                "the request is larger than an engine host takes",
            ),
            _ => host_gone(error),
        })?;
        drop((theirs, making, ends));
        let (mut reason, mut details) = (None, Vec::new());
        loop {
            let (host, spoken) = wait(&self.channel, &guest).map_err(system)?;
            // What the guest says comes first: it knows more than the host.
            if spoken {
                match guest.receive::<FromGuest>() {
                    Ok(Some(packet)) => match packet.message {
                        FromGuest::Failed(failure) => reason = Some(failure),
                        FromGuest::Detail(text) => details.push(text),
                        FromGuest::Compile { key, quick } => {
                            answer(&guest, packet.fds, |file| {
                                compile(file, &key, quick.as_deref())
                            });
                        }
                        FromGuest::Cgroup => {
                            let answer =
                                make_cgroup().map_or_else(ToGuest::Refused, |()| ToGuest::GoOn);
                            // If it has gone meanwhile, that is told.
                            let _ = guest.send(&answer, &[]);
                        }
                        FromGuest::Hooks { pid } => {
                            reason = hooks(pid).err();
                            let answer = match &reason {
                                None => ToGuest::GoOn,
                                Some(failure) => ToGuest::Refused(failure.message.clone()),
                            };
                            // If it has gone meanwhile, the host tells.
                            let _ = guest.send(&answer, &[]);
                        }
                    },
                    // It closed its end: the host tells the rest.
                    Ok(None) => {
                        return self.reply(reason, details, request.cwd(), guest);
                    }
                    Err(error) => return Err(system(error)),
                }
            } else if host {
                return self.reply(reason, details, request.cwd(), guest);
            }
        }
    }

    fn reply(
        &self,
        reason: Option<Failure>,
        mut details: Vec<String>,
        cwd: &Path,
        guest: Channel,
    ) -> Result<Forked, Failure> {
        let packet = match self.channel.receive::<HostReply>() {
            Ok(Some(packet)) => packet,
            Ok(None) => return Err(host_gone(io::ErrorKind::BrokenPipe.into())),
            Err(error) => return Err(host_gone(error)),
        };
        match (packet.message, reason) {
            // A process that was forked and then could not be executed is none.
            (_, Some(reason)) => Err(reason),
            (HostReply::Failed(failure), None) if details.is_empty() => Err(failure),
            (HostReply::Failed(failure), None) => {
                // It is the last thing that was said, and may know a cause.
                details.push(failure.message);
                Err(Failure::new(failure.kind, sentence(&details, cwd).unwrap_or_default()))
            }
            (HostReply::Forked { pid }, None) => {
                Ok(Forked { pid, guest, console: packet.fds.into_iter().next() })
            }
        }
    }
}

fn answer(guest: &Channel, fds: Vec<OwnedFd>, compile: impl FnOnce(&File) -> Result<File, String>) {
    let result = match fds.into_iter().next() {
        Some(module) => compile(&File::from(module)),
        None => Err("no module came with the question".to_owned()),
    };
    // A guest that has gone meanwhile needs no answer.
    let _ = match result {
        Ok(code) => guest.send(&ToGuest::Compiled, &[code.as_raw_fd()]),
        Err(text) => guest.send(&ToGuest::Refused(text), &[]),
    };
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
        Ok(Some(packet)) => match packet.message {
            FromGuest::Failed(failure) => Err(failure),
            FromGuest::Compile { .. }
            | FromGuest::Hooks { .. }
            | FromGuest::Cgroup
            | FromGuest::Detail(_) => Err(Failure::new(
                FailureKind::System,
                "the guest said what it may only say earlier",
            )),
        },
        Ok(None) => after.run(Some(pid), Some(reaper)),
        Err(error) => Err(system(error)),
    }
}

/// Whether a container's first process has ended, also when nobody has collected it yet.
#[must_use]
pub fn has_ended(bundle: &Bundle) -> bool {
    Records::of(bundle).ok().and_then(|records| records.pid()).is_some_and(process::has_ended)
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
