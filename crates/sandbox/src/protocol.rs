//! What the daemon, the engine host and a guest that is being prepared say to each other.
//!
//! Each conversation is a pair of connected `SOCK_SEQPACKET` sockets: one packet is one message,
//! JSON, with file descriptors beside it. Both ends are the same build of the same project, so
//! there are no versions to negotiate; a packet that does not parse ends the conversation.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, setsockopt, socketpair, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message, bytes. An overlay of 128 layers takes about 20 KB.
const MESSAGE_MAX: usize = 256 * 1024;
/// The most descriptors beside one message.
const FDS_MAX: usize = 5;
/// The most that the kernel lets a process send beside a message (SCM_MAX_FD). The buffer has room for all of them: of a
/// smaller one the kernel opens as many as fit, and nix returns an error in place of their numbers.
const FDS_SENT_MAX: usize = 253;

/// Daemon to engine host. Beside it: the socket on which the guest answers with [`FromGuest`], the
/// lock of [`crate::making`], and, without a terminal, standard input, output and error.
#[derive(Debug, Serialize, Deserialize)]
pub enum HostRequest {
    /// Prepare a container and fork its first process.
    Create(CreateRequest),
    /// Fork another process into a container, and let it run.
    Exec(ExecRequest),
}

impl HostRequest {
    /// The working directory that is asked for.
    #[must_use]
    pub fn cwd(&self) -> &Path {
        match self {
            HostRequest::Create(request) => &request.cwd,
            HostRequest::Exec(request) => &request.cwd,
        }
    }
}

/// What a container is made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The container's id.
    pub id: String,
    /// The bundle: the directory that holds `config.json`.
    pub bundle: PathBuf,
    /// The mounts that make up the root filesystem; none if it is already there.
    pub rootfs: Vec<Mount>,
    /// The working directory, which is made if it is missing.
    pub cwd: PathBuf,
    /// Whether the guest's streams are a terminal, which the host makes.
    pub terminal: bool,
    /// Whether systemd manages the cgroup.
    pub systemd_cgroup: bool,
    /// Move into the root filesystem with `MS_MOVE` and chroot instead of `pivot_root`.
    pub no_pivot: bool,
    /// Who owns the ends of the standard streams that the guest holds where the container's user
    /// is root, if it is not 0; any other user owns them.
    pub io_uid: u32,
    /// As `io_uid`, the group.
    pub io_gid: u32,
    /// The engine's plug-ins: see [`wherry_engine::Engine::load_plugins`]. Empty: none.
    pub plugins: PathBuf,
    /// Leave out the list of system calls in the engine's own seccomp filter.
    pub no_engine_seccomp: bool,
    /// The largest module, bytes, that a guest's process reads itself: that of an engine without a compiler.
    pub module_max: u64,
}

/// What another process in a container is made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's id.
    pub id: String,
    /// The process's id.
    pub exec_id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// The process, as in a configuration: JSON.
    pub process: String,
    /// Its working directory.
    pub cwd: PathBuf,
    /// As in [`CreateRequest`].
    pub terminal: bool,
    /// As in [`CreateRequest`].
    pub io_uid: u32,
    /// As in [`CreateRequest`].
    pub io_gid: u32,
    /// As in [`CreateRequest`].
    pub plugins: PathBuf,
    /// As in [`CreateRequest`].
    pub no_engine_seccomp: bool,
    /// As in [`CreateRequest`].
    pub module_max: u64,
}

/// A filesystem to mount, as containerd describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The filesystem's type, or `bind`.
    pub fstype: String,
    /// What to mount.
    pub source: String,
    /// Where, below the root filesystem; empty for the root itself.
    pub target: String,
    /// Options as in fstab.
    pub options: Vec<String>,
}

/// Engine host to daemon: how a [`HostRequest`] ended.
#[derive(Debug, Serialize, Deserialize)]
pub enum HostReply {
    /// The process exists. Beside it, for a terminal: the end that is not the guest's.
    Forked {
        /// Its pid in the daemon's namespace.
        pid: i32,
    },
    /// There is no process, and nothing is left of it.
    Failed(Failure),
}

/// Guest to daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromGuest {
    /// Beside it: a module. The guest wants its compiled code.
    Compile {
        /// The engine's compile key.
        key: String,
        /// That of code which is made more quickly, if the engine can.
        quick: Option<String>,
        /// The conditions of the start, as `wherry_engine::Start::to_args` writes them.
        start: Vec<String>,
    },
    /// Said by the host, before there is a guest: the configuration is one that can be carried out, and the daemon is to make
    /// the cgroup meanwhile. Answered with [`ToGuest::GoOn`] or [`ToGuest::Refused`].
    Cgroup,
    /// The container's namespaces are there: it is the moment for prestart and createRuntime hooks.
    /// Answered with [`ToGuest::GoOn`], or not at all.
    Hooks {
        /// The first process, in the daemon's pid namespace.
        pid: i32,
    },
    /// The guest cannot run.
    Failed(Failure),
    /// Something went wrong on the way, in the words of whoever met it. If the container fails
    /// for it, this says more than what is reported in the end.
    Detail(String),
}

/// Daemon to guest: the answer to [`FromGuest::Compile`], [`FromGuest::Hooks`] or [`FromGuest::Cgroup`].
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGuest {
    /// The hooks have been run, or the cgroup is made.
    GoOn,
    /// Beside it: the compiled code.
    Compiled,
    /// It cannot be had.
    Refused(String),
}

/// Why a container cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure.
    pub kind: FailureKind,
    /// One sentence for the person who typed the command.
    pub message: String,
}

/// What sort of failure; each is told apart by the code that a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program is not there. A shell would exit with 127.
    NotFound,
    /// The program is there and cannot be run. A shell would exit with 126.
    NotExecutable,
    /// The image or the configuration asks for what cannot be.
    Invalid,
    /// The machine failed: disk, memory, kernel.
    System,
}

impl FailureKind {
    /// The exit status of a process that ends for this reason, as shells have it.
    #[must_use]
    pub fn exit_status(self) -> i32 {
        match self {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable | FailureKind::Invalid => 126,
            FailureKind::System => 125,
        }
    }
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: shortened(message.into()) }
    }
}

/// The most bytes that a sentence has, about.
const SENTENCE_MAX: usize = 1024;

/// A sentence that nobody has to scroll through, and that fits into a message, whatever it names. What is at
/// fault stands in front, the cause at the end.
#[must_use]
pub fn shortened(text: String) -> String {
    if text.len() <= SENTENCE_MAX {
        return text;
    }
    let head = text.floor_char_boundary(SENTENCE_MAX / 2);
    let tail = text.ceil_char_boundary(text.len() - SENTENCE_MAX / 2);
    let part = |range| text.get(range).unwrap_or_default();
    format!("{} … {}", part(0..head), part(tail..text.len()))
}

/// One end of a conversation. Blocking.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// The other end closed with something of ours unread. Told once, before what it has said last.
const CLOSED_UNREAD: nix::errno::Errno = nix::errno::Errno::ECONNRESET;

/// A message and the descriptors beside it.
#[derive(Debug)]
pub struct Packet<T> {
    /// The message.
    pub message: T,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Two connected ends, close-on-exec.
    ///
    /// # Errors
    /// When the kernel has no more sockets or descriptors.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&one, &other] {
            setsockopt(end, sockopt::SndBuf, &MESSAGE_MAX)?;
        }
        Ok((Channel(one), Channel(other)))
    }

    /// Takes a descriptor that is an end of a pair.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with descriptors beside it.
    ///
    /// # Errors
    /// When the other end is closed, or the message is larger than a packet can be.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[RawFd]) -> io::Result<()> {
        send(self.0.as_fd(), message, fds)
    }

    /// Waits for a message. `None` when the other end is closed.
    ///
    /// # Errors
    /// When what came is not such a message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Packet<T>>> {
        let length = self.length_of_next()?;
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; length.min(MESSAGE_MAX)];
        let mut control = cmsg_space!([RawFd; FDS_SENT_MAX]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            match recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::errno::Errno::EINTR | CLOSED_UNREAD) => {}
                other => break other?,
            }
        };
        let length = received.bytes;
        let truncated = received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        let mut fds = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                fds.extend(raw.into_iter().map(adopt));
            }
        }
        if truncated || fds.len() > FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut off"));
        }
        let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default())?;
        Ok(Some(Packet { message, fds }))
    }

    /// Waits for a message, and tells its length: most have a hundredth of what one may have. 0: the other end is closed.
    fn length_of_next(&self) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
                Err(nix::errno::Errno::EINTR | CLOSED_UNREAD) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// As [`Channel::send`], on a descriptor that is somebody else's.
pub(crate) fn send<T: Serialize>(
    channel: BorrowedFd<'_>,
    message: &T,
    fds: &[RawFd],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        channel.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Takes the first descriptor that arrives on a stream socket.
///
/// # Errors
/// When none comes with the next bytes.
pub(crate) fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut bytes = [0; 64];
    let mut control = cmsg_space!([RawFd; FDS_SENT_MAX]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            fds.extend(raw.into_iter().map(adopt));
        }
    }
    fds.into_iter()
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came"))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn adopt(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    use std::io::{Read, Write};

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        one.send(
            &FromGuest::Compile { key: "k".into(), quick: None, start: Vec::new() },
            &[writer.as_raw_fd()],
        )
        .unwrap();
        let packet = other.receive::<FromGuest>().unwrap().unwrap();
        assert!(matches!(packet.message, FromGuest::Compile { key, .. } if key == "k"));
        writer.write_all(b"x").unwrap();
        drop(writer);
        std::fs::File::from(packet.fds.into_iter().next().unwrap()).write_all(b"y").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xy");
    }

    #[test]
    fn a_message_with_too_many_descriptors_is_refused_and_leaves_none_open() {
        let (one, other) = Channel::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        for count in [FDS_MAX + 1, FDS_MAX + 3, FDS_SENT_MAX] {
            one.send(&ToGuest::GoOn, &vec![writer.as_raw_fd(); count]).unwrap();
            assert!(other.receive::<ToGuest>().is_err(), "{count}");
        }
        // Every copy of the writing end is closed: the reader comes to the end.
        drop(writer);
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap();
        assert!(fds[0].revents().unwrap().contains(PollFlags::POLLHUP));
    }

    #[test]
    fn a_large_message_is_whole() {
        let (one, other) = Channel::pair().unwrap();
        let text = "x".repeat(200_000);
        one.send(&ToGuest::Refused(text.clone()), &[]).unwrap();
        let packet = other.receive::<ToGuest>().unwrap().unwrap();
        assert!(matches!(packet.message, ToGuest::Refused(t) if t == text));
    }

    #[test]
    fn a_long_sentence_keeps_both_ends() {
        let short = shortened(format!("cannot open {}: is missing", "ü".repeat(100_000)));
        assert!(short.len() <= SENTENCE_MAX + 8, "{}", short.len());
        assert!(short.starts_with("cannot open ü") && short.ends_with("ü: is missing"));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn the_end_is_none_and_nonsense_an_error() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&"nonsense", &[]).unwrap();
        assert!(other.receive::<ToGuest>().is_err());
        drop(one);
        assert!(other.receive::<ToGuest>().unwrap().is_none());
    }

    #[test]
    fn the_last_word_arrives_of_one_who_did_not_listen() {
        let (one, other) = Channel::pair().unwrap();
        other.send(&ToGuest::GoOn, &[]).unwrap();
        one.send(&FromGuest::Cgroup, &[]).unwrap();
        drop(one);
        assert!(matches!(
            other.receive::<FromGuest>().unwrap().unwrap().message,
            FromGuest::Cgroup
        ));
        assert!(other.receive::<FromGuest>().unwrap().is_none());
    }
}
