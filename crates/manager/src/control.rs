//! The control socket of a manager: HTTP, with the manager's status at `/status` and its metrics at
//! `/metrics`. The metrics can be served on a port of a loopback address, too.
//!
//! The control sockets of all managers are in one directory, where `status` finds them. It is not
//! the directory of the sockets for containerd: a connection to such a one makes a manager stay.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::prometheus_text;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use wherry_shim::group;
use wherry_shim::operator::{self, Serving};
use wherry_sys::measure;
use wherry_sys::socket::{self, Listen, SocketName};

use crate::VERSION;
use crate::metrics::{Metrics, Now};
use crate::status::{Containers, Status};

/// Where a manager's status is.
pub(crate) const STATUS: &str = "/status";
/// Where its metrics are.
const METRICS: &str = "/metrics";
/// How long a client may take for its request and the answer. The next client waits meanwhile: the
/// manager has one connection at a time, because every user of the machine may open some to a port.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the kernel accepts no connection: it has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What the clients of a manager's control socket can get.
struct Control {
    serving: Serving,
    since: Instant,
    metrics: Option<&'static Metrics>,
    /// Why the metrics are not served on their port.
    metrics_error: Option<String>,
}

/// Starts to measure and to serve. Must be called within the runtime.
pub(crate) fn serve(serving: Serving) {
    let path = group::control_socket(&serving.manager.socket);
    let (mut metrics, mut port, mut metrics_error) = (None, None, None);
    if serving.settings.metrics != operator::Metrics::Off {
        let made: &'static Metrics = Box::leak(Box::new(Metrics::new(&serving.manager, VERSION)));
        measure::start(made);
        metrics = Some(made);
    }
    if let operator::Metrics::Loopback(address) = serving.settings.metrics {
        match bind(address) {
            Ok(listener) => port = Some(listener),
            Err(error) => {
                let text = format!("cannot serve metrics at {address}: {error}");
                log::error!("{text}");
                metrics_error = Some(text);
            }
        }
    }
    let control = Arc::new(Control { serving, since: Instant::now(), metrics, metrics_error });
    if let Some(listener) = port {
        tokio::spawn(serve_port(listener, Arc::clone(&control)));
    }
    match bind_socket(path.clone()) {
        Ok((listener, name)) => drop(tokio::spawn(serve_socket(listener, name, control))),
        Err(error) => log::error!("`status` cannot ask this manager: {}: {error}", path.display()),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A socket's path, which is removed when this is dropped.
struct Bound(SocketName);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.remove();
    }
}

fn bind_socket(path: PathBuf) -> io::Result<(UnixListener, Bound)> {
    match socket::serve_at(&path)? {
        Listen::Bound(listener, name) => {
            listener.set_nonblocking(true)?;
            Ok((UnixListener::from_std(listener)?, Bound(name)))
        }
        Listen::Served => Err(io::ErrorKind::AddrInUse.into()),
    }
}

async fn serve_socket(listener: UnixListener, _name: Bound, control: Arc<Control>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => answer_one(stream, &control, true).await,
            Err(error) => refused(&error).await,
        }
    }
}

async fn serve_port(listener: TcpListener, control: Arc<Control>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => answer_one(stream, &control, false).await,
            Err(error) => refused(&error).await,
        }
    }
}

async fn refused(error: &io::Error) {
    log::warn!("cannot accept a connection of the operator: {error}");
    sleep(ACCEPT_PAUSE).await;
}

/// Answers one request. Its status is for clients of the control socket alone.
async fn answer_one<S>(stream: S, control: &Control, private: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        std::future::ready(answer(control, &request, private))
    });
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match timeout(CLIENT_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a request of the operator failed: {error}"),
        Err(_) => log::debug!("a request of the operator took longer than {CLIENT_TIMEOUT:?}"),
    }
}

fn answer(
    control: &Control,
    request: &Request<Incoming>,
    private: bool,
) -> std::result::Result<Response<String>, std::fmt::Error> {
    let mut response = Response::new(String::new());
    let (kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, STATUS) if private => match serde_json::to_string(&control.status()) {
            Ok(text) => ("application/json", text),
            Err(error) => {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                ("text/plain", error.to_string())
            }
        },
        (&Method::GET, METRICS) => match control.metrics {
            Some(metrics) => (prometheus_text::CONTENT_TYPE, metrics.encode(&control.now())?),
            None => {
                *response.status_mut() = StatusCode::NOT_FOUND;
                ("text/plain", "metrics are off: see `metrics` in the settings\n".to_owned())
            }
        },
        (&Method::GET, _) => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            ("text/plain", format!("not found: there is {METRICS}\n"))
        }
        _ => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            ("text/plain", "only GET is allowed\n".to_owned())
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = body;
    Ok(response)
}

impl Control {
    fn now(&self) -> Now {
        let Serving { service, publisher, supervisor, .. } = &self.serving;
        Now {
            containers: service.census(),
            unsent_events: publisher.unsent(),
            spare_hosts: supervisor.spare().ready(),
        }
    }

    fn status(&self) -> Status {
        let Now { containers, unsent_events, spare_hosts } = self.now();
        let Serving { manager, settings, .. } = &self.serving;
        let metrics = match settings.metrics {
            operator::Metrics::Off => "off".to_owned(),
            operator::Metrics::ControlSocket => "socket".to_owned(),
            operator::Metrics::Loopback(address) => match &self.metrics_error {
                None => address.to_string(),
                Some(error) => error.clone(),
            },
        };
        Status {
            runtime: manager.runtime.clone(),
            namespace: manager.namespace.clone(),
            address: manager.address.clone(),
            pid: std::process::id(),
            version: VERSION.to_owned(),
            up_seconds: self.since.elapsed().as_secs(),
            containers: Containers::from(containers),
            unsent_events,
            spare_hosts,
            metrics,
            socket: manager.socket.clone(),
            control_socket: group::control_socket(&manager.socket),
        }
    }
}
