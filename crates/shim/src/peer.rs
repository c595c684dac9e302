//! Who may talk to the daemon: root, and the user that the daemon itself runs as.
//!
//! The socket's mode keeps others out. Their uid is checked besides: a descriptor of a connection, or a mode that an
//! administrator has changed, must not be enough to run containers.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::net::{UnixListener, UnixStream};
use wherry_sys::daemon::effective_uid;

/// The connections of a listener whose other end is root or this process's own user. Others are closed.
pub(crate) struct Trusted {
    listener: UnixListener,
    own: u32,
}

impl Trusted {
    /// Takes connections from `listener`. Must be called within the runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be registered.
    pub(crate) fn new(listener: StdUnixListener) -> io::Result<Trusted> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Trusted { listener, own: effective_uid() })
    }

    fn check(&self, stream: &UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == self.own {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it is user {uid}'s")))
    }
}

impl Stream for Trusted {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => match self.check(&stream) {
                    Ok(()) => return Poll::Ready(Some(Ok(stream))),
                    Err(error) => log::warn!("a connection was closed: {error}"),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
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

    /// The client is this test in a process of its own, which another user runs.
    #[tokio::test]
    async fn another_user_is_refused_whatever_the_sockets_mode() {
        if let Some(path) = std::env::var_os(CONNECT_TO) {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
            assert_eq!(answer, "", "the daemon talks");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = StdUnixListener::bind(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        for path in [&path, &directory.path().to_owned()] {
            std::fs::set_permissions(path, std::fs::Permissions::clone(&open)).unwrap();
        }
        let mut trusted = Trusted::new(listener).unwrap();
        // The executable may lie where only root may go.
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
            _ = next() => panic!("another user's connection was taken"),
            () = ended => {}
        }
        assert!(client.wait().unwrap().success());
        let own = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(next().await.unwrap().is_ok());
        drop(own);
    }
}
