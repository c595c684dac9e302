//! The socket of a server and its connections, from Start to SIGTERM.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use wherry_engine::{StartError, Trap};

use super::request::Handler;
use super::ticker::Ticker;

/// The connections that wait in the kernel. It has a limit for itself, `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// The time for a client to send the header section of a request, from the end of the one before:
/// how long an idle connection stays. Proxies commonly keep theirs for 60 s, and must be the first
/// to close them.
const HEADER_TIME: Duration = Duration::from_secs(75);
/// The time after which accept(2) is tried again when the process has no descriptor left.
const RETRY: Duration = Duration::from_millis(50);

/// A server that listens.
pub(super) struct Listening {
    runtime: Runtime,
    listener: TcpListener,
    /// Readable once this process is terminated.
    terminated: UnixStream,
    /// The other end of `terminated`.
    terminate: Option<OwnedFd>,
}

/// A server that runs.
pub(super) struct Started {
    pub(super) handler: Arc<Handler>,
    pub(super) ticker: Ticker,
}

impl Listening {
    /// Listens on an address.
    pub(super) fn on(address: SocketAddr) -> Result<Listening, StartError> {
        let failed =
            |error: io::Error| StartError(format!("cannot listen on {address}: {}", cause(&error)));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let entered = runtime.enter();
        let listener = listen(address).map_err(failed)?;
        let (terminated, terminate) = StdUnixStream::pair().map_err(failed)?;
        terminated.set_nonblocking(true).map_err(failed)?;
        let terminated = UnixStream::from_std(terminated).map_err(failed)?;
        drop(entered);
        Ok(Listening { runtime, listener, terminated, terminate: Some(terminate.into()) })
    }

    /// The descriptor to which the process writes when it is terminated.
    pub(super) fn termination(&mut self) -> Option<OwnedFd> {
        self.terminate.take()
    }

    /// Serves until the process is terminated, and finishes the requests in flight.
    pub(super) fn serve(self, handler: &Arc<Handler>) -> Result<(), Trap> {
        let Listening { runtime, listener, terminated, terminate } = self;
        let ticker = handler
            .start_ticker()
            .map_err(|error| Trap(format!("cannot start the thread of the server: {error}")))?;
        let started = Arc::new(Started { handler: Arc::clone(handler), ticker });
        runtime.block_on(async {
            let connections = GracefulShutdown::new();
            started.accept(listener, terminated, &connections).await;
            let drained = async {
                connections.shutdown().await;
                // After their responses.
                handler.finished().await;
            };
            if tokio::time::timeout(handler.limits().grace, drained).await.is_err() {
                let running = handler.running();
                super::report(&format!(
                    "{running} requests did not end within the time that annotation \
                     wherry.http.grace sets"
                ));
            }
        });
        drop(terminate);
        // A name resolution still in progress must not delay the process's exit.
        runtime.shutdown_background();
        Ok(())
    }
}

impl Started {
    /// Accepts connections until the process is terminated.
    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        terminated: UnixStream,
        connections: &GracefulShutdown,
    ) {
        let protocols = self.protocols();
        loop {
            match poll_fn(|context| poll_accept(&listener, &terminated, context)).await {
                None => return,
                Some(Ok(stream)) => self.connect(&protocols, stream, connections),
                // It was closed before it was accepted.
                Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Some(Err(_)) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    fn protocols(&self) -> auto::Builder<TokioExecutor> {
        let headers = self.handler.limits().headers;
        let mut protocols = auto::Builder::new(TokioExecutor::new());
        protocols
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(headers as usize);
        protocols.http2().timer(TokioTimer::new()).max_header_list_size(headers);
        protocols
    }

    /// Serves a connection in a task.
    fn connect(
        self: &Arc<Self>,
        protocols: &auto::Builder<TokioExecutor>,
        stream: TcpStream,
        connections: &GracefulShutdown,
    ) {
        // Without it responses may be sent later.
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(self);
        let service = service_fn(move |request| Arc::clone(&server).respond(request));
        let connection = protocols.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // The errors are those of the client, or were reported.
            let _ = connection.await;
        });
    }
}

/// The next connection. `None`: the process is terminated.
fn poll_accept(
    listener: &TcpListener,
    terminated: &UnixStream,
    context: &mut Context<'_>,
) -> Poll<Option<io::Result<TcpStream>>> {
    if terminated.poll_read_ready(context).is_ready() {
        return Poll::Ready(None);
    }
    listener.poll_accept(context).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As every server: connections of an earlier process may be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens on it".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no network interface has this address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: a port below 1024 needs the capability NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}
