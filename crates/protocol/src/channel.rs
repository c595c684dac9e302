//! A channel: a pair of connected `SOCK_SEQPACKET` sockets.
//!
//! One packet is one message, JSON, with file descriptors beside it. Both ends are the same build
//! of this project, so no version is negotiated; a packet that does not parse ends the
//! conversation.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest message, bytes. An overlay of 128 layers takes about 20 KB.
const MESSAGE_MAX: usize = 256 * 1024;
/// The most descriptors beside one message.
const FDS_MAX: usize = 6;
/// The most descriptors that the kernel sends beside a message (SCM_MAX_FD). The buffer has room
/// for all of them: into a smaller one the kernel would put those that fit, and nix would return an
/// error without closing them.
const FDS_SENT_MAX: usize = 253;

/// One end of a channel. Blocking.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// The error for "the peer closed with unread data". The kernel reports it once, before the data
/// that the peer had sent.
const CLOSED_UNREAD: Errno = Errno::ECONNRESET;

/// A message and the descriptors beside it.
#[derive(Debug)]
pub struct Packet<T> {
    /// The message.
    pub message: T,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Creates two connected ends, close-on-exec.
    ///
    /// # Errors
    /// If the kernel is out of sockets or descriptors.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&one, &other] {
            setsockopt(end, sockopt::SndBuf, &MESSAGE_MAX)?;
        }
        Ok((Channel(one), Channel(other)))
    }

    /// A channel from its end `fd`.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Duplicates the descriptor: another handle of the same end.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Channel> {
        self.0.try_clone().map(Channel)
    }

    /// Limits each later wait for a message: [`Channel::receive`] then fails with
    /// [`io::ErrorKind::WouldBlock`]. Zero removes the limit.
    ///
    /// # Errors
    /// If the kernel refuses it: never for a socket.
    pub fn limit_waits(&self, limit: Duration) -> io::Result<()> {
        let limit = TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into());
        Ok(setsockopt(&self.0, sockopt::ReceiveTimeout, &limit)?)
    }

    /// Sends a message with descriptors beside it.
    ///
    /// # Errors
    /// If the peer has closed, or the message is larger than a packet may be: EMSGSIZE.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[RawFd]) -> io::Result<()> {
        send(self.0.as_fd(), message, fds)
    }

    /// Waits for a message. Returns None when the peer has closed.
    ///
    /// # Errors
    /// If the packet is not such a message.
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
                Err(Errno::EINTR | CLOSED_UNREAD) => {}
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
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was truncated"));
        }
        bytes.truncate(length);
        let message = serde_json::from_slice(&bytes)?;
        Ok(Some(Packet { message, fds }))
    }

    /// Waits for a message and returns its length, so that the buffer fits: most messages have a
    /// hundredth of the maximum. 0 if the peer has closed.
    fn length_of_next(&self) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR | CLOSED_UNREAD) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// As [`Channel::send`], on a borrowed descriptor.
///
/// # Errors
/// As [`Channel::send`].
pub fn send<T: Serialize>(channel: BorrowedFd<'_>, message: &T, fds: &[RawFd]) -> io::Result<()> {
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

/// Receives the first descriptor that arrives on a stream socket.
///
/// # Errors
/// If no descriptor comes with the next bytes.
pub fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
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
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
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
    // SAFETY: the kernel has just opened it for this process, and no one else has its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{SetupMessage, SetupReply};
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    use std::io::{Read, Write};

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let message = SetupMessage::Compile { key: "k".into(), baseline: None, start: Vec::new() };
        one.send(&message, &[writer.as_raw_fd()]).unwrap();
        let packet = other.receive::<SetupMessage>().unwrap().unwrap();
        assert!(matches!(packet.message, SetupMessage::Compile { key, .. } if key == "k"));
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
            one.send(&SetupReply::Proceed, &vec![writer.as_raw_fd(); count]).unwrap();
            assert!(other.receive::<SetupReply>().is_err(), "{count}");
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
        one.send(&SetupReply::Refused(text.clone()), &[]).unwrap();
        let packet = other.receive::<SetupReply>().unwrap().unwrap();
        assert!(matches!(packet.message, SetupReply::Refused(t) if t == text));
    }

    #[test]
    fn the_end_is_none_and_nonsense_an_error() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&"nonsense", &[]).unwrap();
        assert!(other.receive::<SetupReply>().is_err());
        drop(one);
        assert!(other.receive::<SetupReply>().unwrap().is_none());
    }

    #[test]
    fn the_last_word_arrives_of_one_who_did_not_listen() {
        let (one, other) = Channel::pair().unwrap();
        other.send(&SetupReply::Proceed, &[]).unwrap();
        one.send(&SetupMessage::Cgroup, &[]).unwrap();
        drop(one);
        assert!(matches!(
            other.receive::<SetupMessage>().unwrap().unwrap().message,
            SetupMessage::Cgroup
        ));
        assert!(other.receive::<SetupMessage>().unwrap().is_none());
    }

    #[test]
    fn a_message_above_the_maximum_is_not_sent() {
        let (one, other) = Channel::pair().unwrap();
        let error = one.send(&SetupReply::Refused("x".repeat(MESSAGE_MAX)), &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        // The channel can still be used.
        one.send(&SetupReply::Proceed, &[]).unwrap();
        let packet = other.receive::<SetupReply>().unwrap().unwrap();
        assert!(matches!(packet.message, SetupReply::Proceed));
    }

    #[test]
    fn a_packet_above_the_maximum_is_refused_and_the_next_one_is_whole() {
        let (one, other) = Channel::pair().unwrap();
        let huge = serde_json::to_vec(&"x".repeat(MESSAGE_MAX)).unwrap();
        nix::sys::socket::send(one.as_raw_fd(), &huge, MsgFlags::empty()).unwrap();
        assert_eq!(other.receive::<String>().unwrap_err().to_string(), "a message was truncated");
        one.send(&SetupReply::Proceed, &[]).unwrap();
        assert!(other.receive::<SetupReply>().unwrap().is_some());
    }

    #[test]
    fn descriptors_close_when_a_program_is_executed() {
        let (one, other) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.send(&SetupReply::Compiled, &[null.as_raw_fd()]).unwrap();
        let packet = other.receive::<SetupReply>().unwrap().unwrap();
        for fd in [one.as_fd(), other.as_fd(), packet.fds[0].as_fd()] {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn bytes_without_a_descriptor_are_an_error_of_the_one_who_waits_for_it() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (&theirs).write_all(b"tty").unwrap();
        let error = receive_descriptor(&ours.into()).unwrap_err();
        assert_eq!(error.to_string(), "no descriptor was sent");
    }
}
