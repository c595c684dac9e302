//! Accepts connections to the daemon from root and from the daemon's own user.
//!
//! The mode of the socket admits the same users. The uid is checked too, because an inherited
//! descriptor or a changed mode must not suffice to run containers.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use wherry_sys::daemon::effective_uid;
use wherry_task::{Connected, Connections, RestoredConnection};

/// The connections of a listener from root or this process's user. Connections of other users are
/// closed.
pub(crate) struct Trusted {
    listener: UnixListener,
    own_uid: u32,
    connections: Connections,
    /// Connections that came along in a handover, which come first.
    restored: VecDeque<RestoredConnection>,
}

/// A connection, which is counted while it is open, and whose bytes are followed.
pub(crate) struct Connection {
    stream: UnixStream,
    connected: Connected,
}

impl Trusted {
    /// Accepts connections from `listener` and counts them in `connections`, after those in
    /// `restored`. Must be called within the runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be registered.
    pub(crate) fn new(
        listener: StdUnixListener,
        connections: Connections,
        restored: Vec<RestoredConnection>,
    ) -> io::Result<Trusted> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Trusted { listener, own_uid: effective_uid(), connections, restored: restored.into() })
    }

    fn check(&self, stream: &UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == self.own_uid {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {uid} is neither root nor {}", self.own_uid),
        ))
    }

    fn connection(&self, stream: UnixStream, ahead: Vec<u8>) -> Connection {
        let connected = self.connections.open(&stream, ahead);
        Connection { stream, connected }
    }
}

impl Stream for Trusted {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(RestoredConnection { socket, ahead }) = self.restored.pop_front() {
            let stream = StdUnixStream::from(socket);
            let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            return Poll::Ready(Some(stream.map(|stream| self.connection(stream, ahead))));
        }
        loop {
            ready!(self.connections.poll_open(context));
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => match self.check(&stream) {
                    Ok(()) => return Poll::Ready(Some(Ok(self.connection(stream, Vec::new())))),
                    Err(error) => log::warn!("closed a connection: {error}"),
                },
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.connected.poll_open(context));
        if self.connected.read_ahead(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match &result {
            Ok(()) => self.connected.has_read(buffer.filled().get(before..).unwrap_or_default()),
            Err(_) => self.connected.has_failed(),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        match &result {
            Ok(written) => {
                let mut left = *written;
                for slice in slices {
                    let (taken, _) = slice.split_at(left.min(slice.len()));
                    self.connected.has_written(taken);
                    left -= taken.len();
                }
            }
            Err(_) => self.connected.has_failed(),
        }
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const CONNECT_TO: &str = "WHERRY_TEST_CONNECT_TO";
    const NAME: &str = "peer::tests::another_user_is_refused_whatever_the_sockets_mode";

    /// The client is this test, in another process that runs as another user.
    #[tokio::test]
    async fn another_user_is_refused_whatever_the_sockets_mode() {
        if let Some(path) = std::env::var_os(CONNECT_TO) {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
            assert_eq!(answer, "", "the daemon answers");
            return;
        }
        if effective_uid() != 0 {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = StdUnixListener::bind(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        for path in [&path, &directory.path().to_owned()] {
            std::fs::set_permissions(path, std::fs::Permissions::clone(&open)).unwrap();
        }
        let connections = Connections::default();
        let mut trusted = Trusted::new(listener, connections.clone(), Vec::new()).unwrap();
        // The executable may be in a directory that only root can search.
        let program = directory.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut client = Command::new(program)
            .args(["--exact", NAME])
            .env(CONNECT_TO, &path)
            .uid(54321)
            .gid(54321)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut next = async || poll_fn(|context| Pin::new(&mut trusted).poll_next(context)).await;
        let ended = async {
            while client.try_wait().unwrap().is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = next() => panic!("another user's connection was accepted"),
            () = ended => {}
        }
        assert!(client.wait().unwrap().success());
        let own = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let connection = next().await.unwrap().unwrap();
        assert!(!connections.none());
        drop(connection);
        assert!(connections.none(), "a closed connection is not counted");
        drop(own);
    }
}
