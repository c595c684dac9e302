//! The engine host: the process that has an engine loaded and forks guests.
//!
//! It serves one daemon over the socket that is its descriptor 3, one request after the other, on
//! a single thread, because it forks. A guest is born as the *daemon's* child: the host may go
//! away, the guest stays.

mod compile;
mod guest;
mod mount;
mod run;
mod signals;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::unistd::{Gid, Uid, fchown};
use oci_spec::runtime::Spec;
use wherry_engine::Engine;

use crate::bundle::Bundle;
use crate::daemon;
use crate::protocol::{Channel, CreateReply, CreateRequest, Failure, FailureKind};

pub use compile::{EXIT_INVALID, EXIT_IO, compile};
pub use run::run;

/// The descriptor on which a daemon talks to its host.
pub const HOST_FD: i32 = 3;
/// The descriptor on which the host writes its log, if it has one.
pub const LOG_FD: i32 = 4;

/// Serves the daemon until it closes the conversation. `oom_score_adj` is what a guest has whose
/// configuration says nothing: the daemon's own, which this process inherited, is not for guests.
#[must_use]
#[allow(unsafe_code)]
pub fn serve(engine: Rc<dyn Engine>, oom_score_adj: Option<&str>) -> ExitCode {
    // SAFETY: whoever started us as an engine host put the socket there, and nothing else here
    // uses the number. If it is no socket the first receive says so.
    let channel = Channel::from_fd(unsafe { OwnedFd::from_raw_fd(HOST_FD) });
    // Both came through exec; a native program in a container must not get them.
    for fd in [HOST_FD, LOG_FD] {
        let _ = nix::fcntl::fcntl(
            borrow(fd),
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        );
    }
    crate::log::to_descriptor(LOG_FD);
    loop {
        let packet = match channel.receive::<CreateRequest>() {
            Ok(Some(packet)) => packet,
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => {
                log::error!("the daemon said what cannot be read: {error}");
                return ExitCode::FAILURE;
            }
        };
        // Each time: libcontainer sets it to what a container's configuration says.
        if let Some(score) = oom_score_adj {
            let _ = fs::write(daemon::OOM_SCORE_ADJ, score);
        }
        let reply = match create(&engine, &packet.message, packet.fds) {
            Ok(pid) => CreateReply::Created { pid },
            Err(failure) => CreateReply::Failed(failure),
        };
        if channel.send(&reply, &[]).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

#[allow(unsafe_code)]
fn borrow(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for the one call that it is passed to, on a descriptor that stays open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

fn create(
    engine: &Rc<dyn Engine>,
    request: &CreateRequest,
    fds: Vec<OwnedFd>,
) -> Result<i32, Failure> {
    let Ok([stdin, stdout, stderr, channel]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(Failure::new(FailureKind::System, "four descriptors belong to a request"));
    };
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec =
        bundle.spec().map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    mount::rootfs(&bundle.rootfs(&spec), &request.rootfs)
        .map_err(|error| Failure::new(FailureKind::System, error))?;
    for stream in [&stdin, &stdout, &stderr] {
        own_stream(stream, request, &spec);
    }
    let executor = guest::Executor::new(Rc::clone(engine), Channel::from_fd(channel));
    ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(bundle.path())
        .map(|builder| {
            builder
                .with_executor(executor)
                .with_stdin(stdin)
                .with_stdout(stdout)
                .with_stderr(stderr)
                .as_init(bundle.path())
                .with_systemd(request.systemd_cgroup)
                .with_no_pivot(request.no_pivot)
                .with_detach(true)
                .as_sibling(true)
        })
        .and_then(|builder| builder.build())
        .map_err(|error| Failure::new(FailureKind::System, sentence(&error)))
        .and_then(|container| match container.pid() {
            Some(pid) => Ok(pid.as_raw()),
            None => Err(Failure::new(FailureKind::System, "the container has no first process")),
        })
}

/// Gives a stream to the container's user, so that the guest may open `/dev/stdout` anew.
fn own_stream(stream: &OwnedFd, request: &CreateRequest, spec: &Spec) {
    let user = spec.process().as_ref().map(|process| process.user());
    let pick = |given: u32, user: Option<u32>| match given {
        0 => user.unwrap_or(0),
        given => given,
    };
    let uid = pick(request.io_uid, user.map(oci_spec::runtime::User::uid));
    let gid = pick(request.io_gid, user.map(oci_spec::runtime::User::gid));
    let fifo = nix::sys::stat::fstat(stream)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if fifo && (uid, gid) != (0, 0) {
        // A filesystem that knows no owners keeps none; the stream itself works all the same.
        if let Err(errno) = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            log::warn!("cannot give descriptor {} to user {uid}: {errno}", stream.as_raw_fd());
        }
    }
}

/// An error with its causes, as one sentence.
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
