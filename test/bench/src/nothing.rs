//! A shim that does nothing: the lower bound that containerd and its client set.
//!
//! It answers each request as fast as possible: a container "runs" from Start on, and has exited
//! with 0 at the same moment. It mounts nothing, starts no process but its daemon, opens no stream
//! and publishes no event. The time of `ctr run --rm` with it is a lower bound for every shim. As a
//! manager, `containerd-shim-nothingd-v1`, it has one daemon for all containers.

use std::collections::hash_map::RandomState;
use std::fs::OpenOptions;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wire::{Frame, Message};

/// Names a file. Each Create appends the time since the end of `start`, in milliseconds.
const PAUSES: &str = "BENCH_PAUSES";
/// The folder of containerd's shims' sockets.
const SOCKETS: &str = "/run/containerd/s";
/// States of a task, as in containerd's `task.proto`.
const CREATED: u64 = 1;
const STOPPED: u64 = 3;

/// How long a manager without connections stays.
const IDLE: Duration = Duration::from_secs(2);

/// The main function of both shims.
#[must_use]
pub fn main(manager: bool) -> ExitCode {
    let action = env::args().skip(1).last().unwrap_or_default();
    let done = match action.as_str() {
        "start" if manager => start_manager(),
        "start" => start(),
        // A DeleteResponse in which everything is zero has no bytes.
        "delete" => Ok(()),
        "-info" => {
            io::stdout().write_all(Message::new().text(1, "io.containerd.nothing.v1").encoded())
        }
        _ => Err(io::Error::other("containerd runs this program: start, delete or -info")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error the text cannot be shown.
            let _ = writeln!(io::stderr(), "io.containerd.nothing.v1: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the address of a socket.
fn announce(socket: &Path) -> io::Result<()> {
    let address =
        format!(r#"{{"version":3,"address":"unix://{}","protocol":"ttrpc"}}"#, socket.display());
    io::stdout().write_all(address.as_bytes())?;
    io::stdout().flush()
}

/// Finds the manager of this containerd, or becomes it. The first container must be started alone:
/// nothing keeps two managers from starting at once.
fn start_manager() -> io::Result<()> {
    fs::create_dir_all(SOCKETS)?;
    let mut hasher = DefaultHasher::new();
    let given: Vec<String> = env::args().skip(1).collect();
    for pair in given.windows(2) {
        if let [name, value] = pair
            && ["-address", "-namespace"].contains(&name.as_str())
        {
            value.hash(&mut hasher);
        }
    }
    let socket = PathBuf::from(format!("{SOCKETS}/{:016x}", hasher.finish()));
    if UnixStream::connect(&socket).is_ok() {
        return announce(&socket);
    }
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    announce(&socket)?;
    let started = Instant::now();
    nix::unistd::daemon(false, false)?;
    listener.set_nonblocking(true)?;
    // Each connection has a clone.
    let connected = Arc::new(());
    let mut busy_at = Instant::now();
    while busy_at.elapsed() < IDLE {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(200u8))?;
        while let Ok((connection, _)) = listener.accept() {
            connection.set_nonblocking(false)?;
            let connected = Arc::clone(&connected);
            thread::spawn(move || {
                // A failing connection is the client's error.
                let _ = serve(connection, started);
                drop(connected);
            });
        }
        if Arc::strong_count(&connected) > 1 {
            busy_at = Instant::now();
        }
    }
    fs::remove_file(&socket)
}

/// Prints the address, detaches from the waiting caller, and serves.
fn start() -> io::Result<()> {
    fs::create_dir_all(SOCKETS)?;
    let socket =
        PathBuf::from(format!("{SOCKETS}/{:016x}", RandomState::new().hash_one(process::id())));
    let listener = UnixListener::bind(&socket)?;
    announce(&socket)?;
    let started = Instant::now();
    // Forks; from here on this is the daemon, whose descriptors are /dev/null.
    nix::unistd::daemon(false, false)?;
    let served = listener.accept().and_then(|(connection, _)| serve(connection, started));
    let _ = fs::remove_file(&socket);
    served
}

/// Answers every request on containerd's one connection, until Shutdown or its end.
fn serve(mut connection: UnixStream, since: Instant) -> io::Result<()> {
    let pid = u64::from(process::id());
    // An exit in 1970: the field must be set, and its value does not matter.
    let moment = Message::new().number(1, 1);
    let ended = Message::new().bytes(2, moment.encoded());
    let mut started = false;
    let mut waiting = Vec::new();
    while let Some(request) = Frame::read(&mut connection)? {
        let answer = match request.method() {
            b"Create" => {
                note(since)?;
                Message::new().number(1, pid)
            }
            b"Start" => {
                started = true;
                Message::new().number(1, pid)
            }
            b"Wait" if !started => {
                waiting.push(request.stream);
                continue;
            }
            b"Wait" => ended.clone(),
            b"State" => {
                let state = Message::new()
                    .number(3, pid)
                    .number(4, if started { STOPPED } else { CREATED });
                state.bytes(10, moment.encoded())
            }
            b"Delete" => Message::new().number(1, pid).bytes(3, moment.encoded()),
            b"Connect" => Message::new().number(1, pid).number(2, pid),
            b"Pids" => Message::new().bytes(1, Message::new().number(1, pid).encoded()),
            _ => Message::new(),
        };
        Frame::response(request.stream, &answer).write(&mut connection)?;
        if started {
            for stream in waiting.drain(..) {
                Frame::response(stream, &ended).write(&mut connection)?;
            }
        }
        if request.method() == b"Shutdown" {
            break;
        }
    }
    Ok(())
}

fn note(since: Instant) -> io::Result<()> {
    let Some(file) = env::var_os(PAUSES) else { return Ok(()) };
    let pause = since.elapsed().as_secs_f64() * 1e3;
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)?
        .write_all(format!("{pause}\n").as_bytes())
}
