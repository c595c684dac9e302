//! Connections of outgoing requests: names, proxies and TLS.
//!
//! The variables are those of curl and Go: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in
//! upper or lower case, for proxies; SSL_CERT_FILE for the certificates to trust, in place of
//! Mozilla's, which are compiled in. All of it is read at the first request.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::Scheme;
use hyper::{Request, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime;
use wasmtime_wasi_http::Error;

use super::connection_error;
use crate::server;

/// The settings of a container's requests.
pub(crate) struct Client {
    /// The variables that matter.
    variables: Vec<(String, String)>,
    proxies: OnceLock<Matcher>,
    tls: OnceLock<Option<TlsConnector>>,
}

/// A connection on which a request can be sent.
pub(super) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    /// The request is for a proxy, with these credentials for it.
    pub(super) proxy: Option<Option<HeaderValue>>,
}

/// A stream of bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The server of a request.
pub(super) struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Result<Target, Error> {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Target { host: without_brackets(authority.host()).to_owned(), port, tls })
    }
}

/// The host of an address of IPv6 is in brackets.
fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

impl Client {
    /// The settings in a container with this environment.
    pub(crate) fn new(env: &[(String, String)]) -> Client {
        let matters =
            |name: &str| name == "SSL_CERT_FILE" || name.to_ascii_lowercase().ends_with("_proxy");
        let variables = env.iter().filter(|(name, _)| matters(name)).cloned().collect();
        Client { variables, proxies: OnceLock::new(), tls: OnceLock::new() }
    }

    fn variable(&self, name: &str) -> String {
        let is_set = |(key, value): &&(String, String)| {
            !value.is_empty() && (key == name || *key == name.to_ascii_lowercase())
        };
        self.variables.iter().find(is_set).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn proxies(&self) -> &Matcher {
        self.proxies.get_or_init(|| {
            Matcher::builder()
                .all(self.variable("ALL_PROXY"))
                .http(self.variable("HTTP_PROXY"))
                .https(self.variable("HTTPS_PROXY"))
                .no(self.variable("NO_PROXY"))
                .build()
        })
    }

    /// Connects to the server of a request, or to a proxy.
    pub(super) async fn connect(&self, target: &Target, uri: &Uri) -> Result<Connection, Error> {
        let Target { host, port, tls } = target;
        let Some(proxy) = self.proxies().intercept(uri) else {
            let stream = dial(host, *port).await?;
            let stream: Box<dyn Stream> =
                if *tls { self.encrypt(stream, host).await? } else { Box::new(stream) };
            return Ok(Connection { stream, proxy: None });
        };
        // Others are those of SOCKS and of proxies behind TLS.
        if proxy.uri().scheme() != Some(&Scheme::HTTP) {
            return Err(Error::ConfigurationError);
        }
        let proxy_host = without_brackets(proxy.uri().host().unwrap_or_default());
        let stream = dial(proxy_host, proxy.uri().port_u16().unwrap_or(80)).await?;
        let credentials = proxy.basic_auth().cloned();
        if !tls {
            return Ok(Connection { stream: Box::new(stream), proxy: Some(credentials) });
        }
        let stream = tunnel(stream, uri, *port, credentials).await?;
        Ok(Connection { stream: self.encrypt(stream, host).await?, proxy: None })
    }

    async fn encrypt(
        &self,
        stream: impl Stream + 'static,
        host: &str,
    ) -> Result<Box<dyn Stream>, Error> {
        let tls = self.tls.get_or_init(|| self.read_certificates());
        let tls = tls.as_ref().ok_or(Error::ConfigurationError)?;
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let stream = tls.connect(name, stream).await.map_err(|error| tls_error(&error))?;
        Ok(Box::new(stream))
    }

    /// Reads the certificates to trust. A failure is written to standard error: a guest gets a
    /// number only.
    fn read_certificates(&self) -> Option<TlsConnector> {
        let mut roots = RootCertStore::empty();
        let file = self.variable("SSL_CERT_FILE");
        if file.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        } else {
            let path = PathBuf::from(&file);
            let read = CertificateDer::pem_file_iter(&path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            match read {
                Ok(certificates) => drop(roots.add_parsable_certificates(certificates)),
                Err(error) => {
                    server::report(&format!("cannot read SSL_CERT_FILE={file}: {error}"));
                    return None;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Some(TlsConnector::from(Arc::new(config)))
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect((host, port)).await.map_err(connection_error)?;
    // Without it a request may be sent later.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Asks a proxy for a connection to the server: `CONNECT`.
async fn tunnel(
    stream: TcpStream,
    uri: &Uri,
    port: u16,
    credentials: Option<HeaderValue>,
) -> Result<impl Stream + use<>, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = runtime::spawn(connection.with_upgrades());
    let address = format!("{}:{port}", uri.host().unwrap_or_default());
    let mut request = Request::connect(&address).header(HOST, &address);
    if let Some(value) = credentials {
        request = request.header(PROXY_AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(Error::HttpRequestDenied);
    }
    let stream = hyper::upgrade::on(response).await?;
    drop(connection);
    Ok(TokioIo::new(stream))
}

fn tls_error(error: &io::Error) -> Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_the_port_of_its_scheme() {
        for (uri, expected) in [
            ("http://a/", ("a", 80, false)),
            ("https://a/", ("a", 443, true)),
            ("https://[::1]:8443/", ("::1", 8443, true)),
        ] {
            let target = Target::of(&uri.parse().unwrap()).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.tls), expected, "{uri}");
        }
    }

    #[test]
    fn the_environment_names_proxies() {
        let client = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Client::new(&pairs)
        };
        let proxy = |client: &Client, uri: &str| {
            client.proxies().intercept(&uri.parse().unwrap()).map(|proxy| proxy.uri().to_string())
        };
        let none = client(&[("PATH", "/bin")]);
        assert_eq!((none.variables.len(), proxy(&none, "http://a/")), (0, None));
        let some = client(&[("http_proxy", "http://p:3128"), ("NO_PROXY", "localhost,.b")]);
        assert_eq!(proxy(&some, "http://a/").as_deref(), Some("http://p:3128/"));
        assert_eq!((proxy(&some, "http://x.b/"), proxy(&some, "https://a/")), (None, None));
    }
}
