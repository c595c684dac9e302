//! The engine host: the process that has an engine loaded and forks guests.
//!
//! It serves one daemon over the socket that is its standard input, one request after the other, on
//! a single thread, because it forks. A guest is born as the *daemon's* child: the host may go
//! away, the guest stays.

mod adapt;
mod apparmor;
mod binds;
mod compile;
mod console;
mod exec;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod guest;
mod idmap;
mod keyring;
mod mount;
mod names;
mod own_executable;
mod privileges;
mod run;
mod seccomp_listener;
mod signals;
pub(crate) mod title;
mod userns;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Gid, Uid, dup2_stdin, dup2_stdout, fchown};
use oci_spec::runtime::{LinuxMemory, Process, Spec, User};
use wherry_engine::{Engine, LoadError};

use crate::bundle::Bundle;
use crate::cgroup::{self, Cgroup};
use crate::check;
use crate::daemon;
use crate::explain;
use crate::hooks::{Batch, Moment};
use crate::protocol::{
    self, Channel, CreateRequest, Failure, FailureKind, FromGuest, HostReply, HostRequest, Packet,
    ToGuest,
};

use console::Console;
use filter::Allow;

pub(crate) use compile::QUICKLY;
pub use compile::{DESCRIPTORS, EXIT_CHANGED, EXIT_INVALID, EXIT_IO, compile};
pub use gate::{GATE, gate};
pub use run::run;

/// What a daemon gives its host in the place of standard streams.
struct Own {
    /// Standard input: the conversation.
    channel: OwnedFd,
    /// Standard output: the log.
    log: OwnedFd,
}

impl Own {
    /// Takes them away from where a guest or a library would use them.
    fn take() -> nix::Result<Own> {
        let aside = |fd: BorrowedFd<'_>| {
            let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
            Ok(adopt(number))
        };
        let own = Own { channel: aside(io::stdin().as_fd())?, log: aside(io::stdout().as_fd())? };
        // Which leads nowhere.
        dup2_stdin(io::stderr())?;
        dup2_stdout(io::stderr())?;
        Ok(own)
    }
}

#[allow(unsafe_code)]
fn adopt(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Serves the daemon until it closes the conversation. `oom_score_adj` is what a guest has whose
/// configuration says nothing: the daemon's own, which this process inherited, is not for guests.
/// Without an engine every request is refused with the reason.
#[must_use]
pub fn serve(engine: Result<Rc<dyn Engine>, LoadError>, oom_score_adj: Option<&str>) -> ExitCode {
    let Ok(Own { channel, log }) = Own::take() else { return ExitCode::FAILURE };
    let channel = Channel::from_fd(channel);
    crate::log::to_descriptor(log);
    title::find();
    own_executable::remember();
    names::look_up_without_libraries();
    privileges::leave_groups();
    loop {
        let packet = match channel.receive::<HostRequest>() {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                be_out_of_the_way();
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                log::error!("the daemon said what cannot be read: {error}");
                return ExitCode::FAILURE;
            }
        };
        // Each time: libcontainer sets it to what a container's configuration says.
        if let Some(score) = oom_score_adj {
            let _ = fs::write(daemon::OOM_SCORE_ADJ, score);
        }
        // The guest's channel comes first.
        let details = packet.fds.first().and_then(|channel| channel.try_clone().ok());
        crate::log::tell_details(details.as_ref());
        let result = match (&engine, &packet.message) {
            (Err(error), _) => Err(system(error.to_string())),
            (Ok(engine), HostRequest::Create(request)) => create(engine, request, packet.fds),
            (Ok(engine), HostRequest::Exec(request)) => exec::exec(engine, request, packet.fds),
        };
        crate::log::tell_details(None);
        drop(details);
        let (reply, console) = match result {
            Ok(Forked { pid, console }) => (HostReply::Forked { pid }, console),
            Err(failure) => (HostReply::Failed(failure), None),
        };
        let fds: Vec<i32> = console.iter().map(AsRawFd::as_raw_fd).collect();
        if channel.send(&reply, &fds).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Leaves the processor to everybody else from here on: the kernel takes a moment to take a process apart, and the daemon, which
/// has just heard of the guest, would often wait for the processor that does it.
#[allow(unsafe_code)]
fn be_out_of_the_way() {
    let idle = libc::sched_param { sched_priority: 0 };
    // SAFETY: it reads the one structure that it is given.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle) };
}

#[allow(unsafe_code)]
fn borrow(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: used for the one call that it is passed to, on a descriptor that stays open.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// What a request brings: the guest's channel, and its streams unless it has a terminal.
struct Descriptors {
    channel: OwnedFd,
    /// Held until the process is made; what is forked inherits it. See [`crate::making`].
    making: OwnedFd,
    streams: Option<[OwnedFd; 3]>,
}

impl Descriptors {
    fn take(fds: Vec<OwnedFd>, terminal: bool) -> Result<Descriptors, Failure> {
        let mut fds = fds.into_iter();
        let taken = (fds.next(), fds.next(), fds.next(), fds.next(), fds.next());
        match taken {
            (Some(channel), Some(making), None, ..) if terminal => {
                Ok(Descriptors { channel, making, streams: None })
            }
            (Some(channel), Some(making), Some(stdin), Some(stdout), Some(stderr)) if !terminal => {
                Ok(Descriptors { channel, making, streams: Some([stdin, stdout, stderr]) })
            }
            _ => {
                Err(Failure::new(FailureKind::System, "the wrong descriptors came with a request"))
            }
        }
    }
}

/// A process that was forked, and the daemon's end of its terminal.
struct Forked {
    pid: i32,
    console: Option<OwnedFd>,
}

fn create(
    engine: &Rc<dyn Engine>,
    request: &CreateRequest,
    fds: Vec<OwnedFd>,
) -> Result<Forked, Failure> {
    let Descriptors { channel, making: _making, streams } =
        Descriptors::take(fds, request.terminal)?;
    let bundle = Bundle::new(&request.bundle, &request.id);
    let invalid = |text: String| Failure::new(FailureKind::Invalid, text);
    let spec = bundle.spec().map_err(|error| invalid(error.to_string()))?;
    check::spec(&spec).map_err(|text| invalid(format!("config.json: {text}")))?;
    load_plugins(&**engine, &request.plugins)?;
    let state = bundle.state_root();
    fs::create_dir_all(&state)
        .map_err(|error| system(format!("cannot make {}: {error}", state.display())))?;
    protocol::send(channel.as_fd(), &FromGuest::Cgroup, &[])
        .map_err(|error| system(error.to_string()))?;
    cgroup::without_waiting(may_be_replaced(&spec, spec.process().as_ref()));
    mount::rootfs(&bundle.rootfs(), &request.rootfs, &bundle.layers()).map_err(system)?;
    let user = spec.process().as_ref().map(Process::user);
    if let Some(root) = spec.root() {
        let root = bundle.path().join(root.path());
        if let Err(error) = fs::read_dir(&root) {
            let text = format!("cannot use the root filesystem {}: {error}", root.display());
            return Err(invalid(text));
        }
        // As runc does; libcontainer needs both to be there. Where it cannot be done, libcontainer says why.
        let owner = userns::outside(&spec, None);
        for directory in [Path::new("/dev"), &request.cwd] {
            if let Err(error) = mount::directory(&root, directory, owner) {
                log::warn!("cannot make {} in the container: {error}", directory.display());
            }
        }
    }
    let config = bundle.config().map_err(|error| invalid(error.to_string()))?;
    let adapted =
        adapt::adapt(&bundle, &spec, &config, request.systemd_cgroup, &channel).map_err(system)?;
    let hooks = Batch::new(Moment::StartContainer, &bundle, &config);
    let channel = Channel::from_fd(channel);
    match channel.receive::<ToGuest>() {
        Ok(Some(Packet { message: ToGuest::GoOn, .. })) => {}
        Ok(Some(Packet { message: ToGuest::Refused(text), .. })) => return Err(system(text)),
        _ => return Err(system("the daemon did not make the cgroup".to_owned())),
    }
    let allow = Allow::for_guests_of(&**engine, &request.plugins, request.no_engine_seccomp);
    let executor = guest::Executor::new(
        Rc::clone(engine),
        channel,
        None,
        Some(hooks),
        allow,
        request.module_max,
    );
    keyring::join(&request.id);
    let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(bundle.state_root())
        .map_err(|error| system(sentence(&error)))?
        .with_executor(executor);
    let outside = userns::outside(&spec, user);
    let owner = owner(user, outside, (request.io_uid, request.io_gid));
    let (builder, console) = streams_of(builder, streams, owner, &bundle)?;
    let container = builder
        .as_init(&adapted.path)
        .with_systemd(request.systemd_cgroup)
        .with_no_pivot(request.no_pivot)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| system(sentence(&error)))?;
    let pid = container.pid().ok_or_else(|| system("the container has no first process".into()))?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(resources) = resources.filter(|_| request.systemd_cgroup) {
        cgroup::complete(pid.as_raw(), resources).map_err(system)?;
    }
    if kills_nobody(&spec)
        && let Some(cgroup) = Cgroup::of(pid.as_raw())
    {
        cgroup.disable_oom_killer().map_err(system)?;
    }
    let console = console.map(Console::receive).transpose()?;
    if let Some(console) = &console {
        console::give(console, outside.0);
    }
    mount::restrict_cgroups(pid.as_raw(), spec.mounts().as_deref().unwrap_or_default())
        .map_err(system)?;
    Ok(Forked { pid: pid.as_raw(), console })
}

/// Loads the engine's plug-ins, which lie outside of the container. This process makes one guest, and it is that guest's.
fn load_plugins(engine: &dyn Engine, path: &Path) -> Result<(), Failure> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let failed = |text: String| {
        let text = format!("plug-ins of {:?}: {text}", path.display().to_string());
        Failure::new(FailureKind::Invalid, text)
    };
    if !path.is_absolute() {
        return Err(failed("it is no absolute path".to_owned()));
    }
    path.metadata().map_err(|error| failed(error.to_string()))?;
    engine.load_plugins(path).map_err(|error| failed(error.to_string()))?;
    // Only the thread that forks goes on in the guest, and the locks of all others stay held.
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(failed("a plug-in started a thread when it was loaded".to_owned()));
    }
    Ok(())
}

/// Whether libcontainer is done with the pid of the process between this one and the guest when that enters its cgroup:
/// it has no mappings or offsets to write for it, and no processors to set.
fn may_be_replaced(spec: &Spec, process: Option<&Process>) -> bool {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let affinity = process.and_then(|process| process.exec_cpu_affinity().as_ref());
    linux.and_then(userns::wanted).is_none() && offsets.is_none() && affinity.is_none()
}

/// Whether nobody is to be killed for want of memory, which libcontainer passes over.
fn kills_nobody(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    memory.and_then(LinuxMemory::disable_oom_killer).unwrap_or(false)
}

/// Gives a process its streams: those that came, or a terminal.
fn streams_of(
    builder: ContainerBuilder,
    streams: Option<[OwnedFd; 3]>,
    owner: (u32, u32),
    bundle: &Bundle,
) -> Result<(ContainerBuilder, Option<Console>), Failure> {
    let Some([stdin, stdout, stderr]) = streams else {
        let console = Console::new(bundle.path())?;
        return Ok((builder.with_console_socket(Some(console.path())), Some(console)));
    };
    for stream in [&stdin, &stdout, &stderr] {
        own_stream(stream, owner);
    }
    Ok((builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr), None))
}

fn system(text: String) -> Failure {
    Failure::new(FailureKind::System, text)
}

/// Who is to own a process's streams: its user, so that the guest may open `/dev/stdout` anew; or,
/// where that is root, whom the client names.
fn owner(user: Option<&User>, outside: (u32, u32), io: (u32, u32)) -> (u32, u32) {
    let pick = |inside, outside, io| if inside == 0 && io != 0 { io } else { outside };
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    (pick(uid, outside.0, io.0), pick(gid, outside.1, io.1))
}

fn own_stream(stream: &OwnedFd, (uid, gid): (u32, u32)) {
    let fifo = nix::sys::stat::fstat(stream)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if fifo && (uid, gid) != (0, 0) {
        // A filesystem that knows no owners keeps none; the stream itself works all the same.
        if let Err(errno) = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            log::warn!("cannot give descriptor {} to user {uid}: {errno}", stream.as_raw_fd());
        }
    }
}

/// An error with its causes, as one sentence. Some errors of libcontainer's do not hand on their causes, and show them to
/// developers only.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    match explain::cause(&format!("{error:?}")) {
        Some(cause) if !text.contains(&cause) => text = format!("{text}: {cause}"),
        _ => {}
    }
    text.replace('\n', " ")
}

/// Reads a whole file from its start, wherever its offset is.
fn read_all(file: &fs::File) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a directory or file is there, through symbolic links.
fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| !meta.is_dir())
}
