//! The clients that are connected to the daemon, and the gate through which their requests come.
//!
//! While the gate is closed, no connection is accepted and no byte is read: requests wait in the
//! sockets of the kernel. Requests that were read before are answered. The rest of a handover is
//! then in the kernel and in [`Frames`]: see [`crate::handover`].

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use containerd_shim_protos::api::StateRequest;
use containerd_shim_protos::protobuf::Message;
use serde::{Deserialize, Serialize};
use tokio::io::ReadBuf;
use tokio::sync::watch;
use ttrpc::Request;
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};

use crate::frames::Frames;
use crate::method;

/// The open connections. Clones share them.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    count: watch::Sender<usize>,
    links: Mutex<Links>,
}

#[derive(Debug, Default)]
struct Links {
    closed: bool,
    /// The tasks that wait for the gate.
    waiting: Vec<Waker>,
    open: HashMap<u64, Link>,
    next: u64,
}

/// A connection.
#[derive(Debug)]
struct Link {
    socket: RawFd,
    frames: Frames,
    /// The bytes to read before those of the socket, the last one first.
    ahead: Vec<u8>,
    /// The client has closed its end.
    ended: bool,
}

/// One open connection, counted until this is dropped. The owner reports all reads and writes.
#[derive(Debug)]
pub struct Connected {
    connections: Connections,
    key: u64,
}

/// The gate is closed until this is dropped.
#[derive(Debug)]
pub(crate) struct Closed(Connections);

/// A connection in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedConnection {
    socket: Descriptor,
    /// The bytes to read before those of the socket.
    ahead: Vec<u8>,
}

/// A connection that came along in a handover.
#[derive(Debug)]
pub struct RestoredConnection {
    /// The socket.
    pub socket: OwnedFd,
    /// The bytes to read before those of the socket.
    pub ahead: Vec<u8>,
}

impl Default for Connections {
    fn default() -> Connections {
        let (count, links) = (watch::Sender::new(0), Mutex::default());
        Connections(Arc::new(Shared { count, links }))
    }
}

impl Connections {
    /// Counts a connection until the result is dropped. `ahead`: the bytes to read before those of
    /// the socket. The socket must stay open as long.
    #[must_use]
    pub fn open(&self, socket: &impl AsRawFd, mut ahead: Vec<u8>) -> Connected {
        let socket = socket.as_raw_fd();
        ahead.reverse();
        let link = Link { socket, frames: Frames::default(), ahead, ended: false };
        let mut links = self.lock();
        let key = links.next;
        links.next += 1;
        links.open.insert(key, link);
        drop(links);
        self.0.count.send_modify(|count| *count += 1);
        Connected { connections: self.clone(), key }
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn none(&self) -> bool {
        *self.0.count.borrow() == 0
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        // `self` holds the sender: the channel cannot close.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ready while the gate is open.
    pub fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        let mut links = self.lock();
        if !links.closed {
            return Poll::Ready(());
        }
        links.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Receives the number after each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Closes the gate until the result is dropped.
    pub(crate) fn close_gate(&self) -> Closed {
        self.lock().closed = true;
        Closed(self.clone())
    }

    /// The first thing that keeps a closed gate from a handover: a request other than Wait that is
    /// not answered, or an answer that is not written.
    pub(crate) fn in_progress(&self) -> Option<String> {
        let links = self.lock();
        let of_link = |link: &Link| {
            let request = link.frames.unanswered().find_map(in_progress);
            let written = link.frames.is_written() && !link.frames.is_discarding();
            request.or_else(|| (!written).then(|| "a message of a client".to_owned()))
        };
        links.open.values().filter(|link| !link.ended).find_map(of_link)
    }

    /// The connections, for the next version of this executable.
    pub(crate) fn save(&self, out: &mut Outgoing) -> Vec<SavedConnection> {
        let links = self.lock();
        let save = |link: &Link| {
            let mut ahead = link.frames.unfinished();
            ahead.extend(link.ahead.iter().rev());
            SavedConnection { socket: out.add(&link.socket), ahead }
        };
        links.open.values().filter(|link| !link.ended).map(save).collect()
    }

    /// The connections of [`Connections::save`].
    pub(crate) fn restore(
        saved: Vec<SavedConnection>,
        from: &mut Incoming,
    ) -> Result<Vec<RestoredConnection>, ResumeError> {
        let restore = |SavedConnection { socket, ahead }| {
            Ok(RestoredConnection { socket: from.take(socket)?, ahead })
        };
        saved.into_iter().map(restore).collect()
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Describes a request, by its payload, unless it may stay unanswered in a handover.
fn in_progress(payload: &[u8]) -> Option<String> {
    let request = Request::parse_from_bytes(payload).unwrap_or_default();
    if method::WAITS.contains(&request.method.as_str()) {
        return None;
    }
    // The id is the first field of every request to a container.
    let id = StateRequest::parse_from_bytes(&request.payload).unwrap_or_default().id;
    Some(format!("{} of {id:?}", request.method))
}

impl Connected {
    /// Ready while bytes may be read.
    pub fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        // A request that is too large is not kept: the server discards it to its end.
        if self.link(|link| link.frames.is_discarding()) == Some(true) {
            return Poll::Ready(());
        }
        self.connections.poll_open(context)
    }

    /// Reads bytes that come before those of the socket. Returns false after the last one.
    pub fn read_ahead(&self, buffer: &mut ReadBuf<'_>) -> bool {
        let read = |link: &mut Link| {
            let rest = link.ahead.len().saturating_sub(buffer.remaining());
            let mut bytes = link.ahead.split_off(rest);
            bytes.reverse();
            buffer.put_slice(&bytes);
            link.frames.read(&bytes);
            !bytes.is_empty()
        };
        self.link(read).unwrap_or(false)
    }

    /// Reports bytes that were read from the socket; none for its end.
    pub fn has_read(&self, bytes: &[u8]) {
        self.link(|link| {
            link.ended |= bytes.is_empty();
            link.frames.read(bytes);
        });
    }

    /// Reports bytes that were written to the socket.
    pub fn has_written(&self, bytes: &[u8]) {
        self.link(|link| link.frames.wrote(bytes));
    }

    /// Reports that the socket can be neither read nor written any more.
    pub fn has_failed(&self) {
        self.link(|link| link.ended = true);
    }

    fn link<T>(&self, change: impl FnOnce(&mut Link) -> T) -> Option<T> {
        self.connections.lock().open.get_mut(&self.key).map(change)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.key);
        self.connections.0.count.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut links = self.0.lock();
        links.closed = false;
        let waiting = std::mem::take(&mut links.waiting);
        drop(links);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ttrpc::MessageHeader;

    #[tokio::test]
    async fn the_last_connection_that_closes_wakes_those_that_wait() {
        let connections = Connections::default();
        assert!(connections.none());
        let open = |connections: &Connections| connections.open(&-1, Vec::new());
        let (one, other) = (open(&connections), open(&connections));
        drop(one);
        assert!(!connections.none());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.closed().await }
        });
        drop(other);
        waiting.await.unwrap();
        assert!(connections.none());
    }

    #[tokio::test]
    async fn a_closed_gate_opens_when_it_is_dropped_and_wakes_those_that_wait() {
        let connections = Connections::default();
        let gate = connections.close_gate();
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move {
                let open = |context: &mut Context<'_>| connections.poll_open(context);
                std::future::poll_fn(open).await;
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(gate);
        waiting.await.unwrap();
    }

    /// The frame of a request to container "x".
    pub(crate) fn request(stream: u32, method: &str) -> Vec<u8> {
        let mut body = StateRequest::new();
        body.id = "x".to_owned();
        let mut request = Request::new();
        request.method = method.to_owned();
        request.payload = body.write_to_bytes().unwrap();
        let payload = request.write_to_bytes().unwrap();
        let header = MessageHeader::new_request(stream, u32::try_from(payload.len()).unwrap());
        [Vec::from(header), payload].concat()
    }

    fn read(connected: &Connected, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        connected.read_ahead(&mut buffer);
        buffer.filled().to_vec()
    }

    #[test]
    fn a_request_is_in_progress_until_its_answer_is_written_unless_it_is_a_wait() {
        let connections = Connections::default();
        let connected = connections.open(&7, Vec::new());
        connected.has_read(&request(1, "Wait"));
        assert_eq!(connections.in_progress(), None);
        connected.has_read(&request(3, "Create"));
        assert_eq!(connections.in_progress().unwrap(), "Create of \"x\"");
        let response = Vec::from(MessageHeader::new_response(3, 2));
        connected.has_written(&response);
        assert!(connections.in_progress().is_some());
        connected.has_written(b"o");
        connected.has_written(b"k");
        assert_eq!(connections.in_progress(), None);
        connected.has_written(&response);
        assert_eq!(connections.in_progress().unwrap(), "a message of a client");
        connected.has_failed();
        assert_eq!(connections.in_progress(), None, "no client waits for it");
        assert!(connections.save(&mut Outgoing::default()).is_empty());
    }

    #[test]
    fn the_next_server_of_a_connection_reads_each_byte_once() {
        let connections = Connections::default();
        let connected = connections.open(&7, Vec::new());
        let (wait, next) = (request(1, "Wait"), request(3, "State"));
        connected.has_read(&wait);
        connected.has_read(&next[..12]);
        let ahead = |connections: &Connections| {
            let saved = connections.save(&mut Outgoing::default());
            assert_eq!(saved.len(), 1);
            saved[0].ahead.clone()
        };
        let expected = [&wait[..], &next[..12]].concat();
        assert_eq!(ahead(&connections), expected);
        // Saved again after each number of bytes that the next server has read.
        for length in 0..=expected.len() {
            let connections = Connections::default();
            let connected = connections.open(&7, expected.clone());
            assert_eq!(read(&connected, length), expected[..length]);
            assert_eq!(ahead(&connections), expected, "after {length} bytes");
            assert_eq!(read(&connected, 1000), expected[length..]);
            assert!(read(&connected, 1000).is_empty());
            connected.has_read(&next[12..]);
            assert_eq!(connections.in_progress().unwrap(), "State of \"x\"");
        }
    }
}
