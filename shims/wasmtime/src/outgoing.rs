//! Outgoing requests of a component: `wasi:http/outgoing-handler`.
//!
//! A request has a connection for itself, of HTTP/1.1, with TLS for `https`. The environment of the
//! container decides about proxies and certificates, as for other programs: see [`connect`].

mod connect;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi::runtime;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

pub(crate) use connect::Client;
use connect::{Connection, Target};

/// The longest time for a connection and for the first byte of a response, unless the guest sets
/// another. Wasmtime's.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The end of a connection.
type Ending = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends the requests of one component.
pub(crate) struct Hooks(Arc<Client>);

impl Hooks {
    pub(crate) fn new(client: Arc<Client>) -> Hooks {
        Hooks(client)
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Ending,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Ending), Error>> + Send> {
        let client = Arc::clone(&self.0);
        Box::new(async move { send(&client, request, options.unwrap_or_default()).await })
    }
}

async fn send(
    client: &Client,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, Ending), Error> {
    let target = Target::of(request.uri())?;
    let limit = options.connect_timeout.unwrap_or(TIMEOUT);
    let (mut sender, connection) = tokio::time::timeout(limit, async {
        let Connection { stream, proxy } = client.connect(&target, request.uri()).await?;
        match proxy {
            // A proxy needs the whole address.
            Some(authorization) => {
                if let Some(value) = authorization {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, value);
                }
            }
            None => *request.uri_mut() = origin_form(request.uri())?,
        }
        http1::handshake(TokioIo::new(stream)).await.map_err(Error::Hyper)
    })
    .await
    .map_err(|_| Error::ConnectionTimeout)??;
    // Ends when the guest drops the response.
    let connection = runtime::spawn(connection);
    let limit = options.first_byte_timeout.unwrap_or(TIMEOUT);
    let response = tokio::time::timeout(limit, sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let response = response.map(|body| match options.between_bytes_timeout {
        Some(limit) => Timed::new(body, limit).boxed_unsync(),
        None => body.map_err(Error::Hyper).boxed_unsync(),
    });
    Ok((response, Box::new(async move { connection.await.map_err(Error::Hyper) })))
}

/// The path and the query alone, as a server gets them.
fn origin_form(uri: &Uri) -> Result<Uri, Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)
}

/// Converts an error of a connection to that of WASI.
fn connection_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            Error::ConnectionTerminated
        }
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        // The C library's resolver has no number of the kernel.
        _ if error.raw_os_error().is_none() => {
            Error::DnsError { rcode: Some(error.to_string()), info_code: None }
        }
        _ => Error::Connect(error),
    }
}

/// A body with a limit for the time between two of its parts.
struct Timed {
    body: Incoming,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(body: Incoming, limit: Duration) -> Timed {
        Timed { body, limit, sleep: Box::pin(tokio::time::sleep(limit)) }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = Instant::now() + self.limit;
            self.sleep.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::Hyper)));
        }
        let expired = self.sleep.as_mut().poll(context);
        expired.map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_gets_the_path_and_the_query() {
        for (uri, path) in [("http://a/b?c=d", "/b?c=d"), ("http://a", "/"), ("http://a?q", "/?q")]
        {
            assert_eq!(origin_form(&uri.parse().unwrap()).unwrap().to_string(), path, "{uri}");
        }
    }
}
