//! The answers to containerd.

use std::convert::Infallible;
use std::io::Read as _;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RANGE, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use wherry_oci::{Data, blob, media};

use crate::converted::{Converted, Found};
use crate::target::{Content, Target};
use crate::upstream::{self, Registries};
use crate::{MirrorError, Options};

/// The connections that are served at a time. containerd opens three for each pull.
const CONNECTIONS: usize = 256;
/// The size of the pieces of an answer.
const PIECE: usize = 256 << 10;
/// The types of an original. A registry may not have it for `*/*`.
const DOCUMENTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

struct Mirror {
    options: Options,
    registries: Registries,
    converted: Converted,
}

/// Accepts connections.
pub(crate) async fn serve(options: Options) -> Result<Infallible, MirrorError> {
    let address = options.listen;
    let listen = |source| MirrorError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let names: Vec<&str> =
        options.registries.iter().map(|registry| registry.name.as_str()).collect();
    (options.log)(&format!("mirroring {} on {address}", names.join(", ")));
    let registries = Registries::new(&options)?;
    let mirror = Arc::new(Mirror { options, registries, converted: Converted::default() });
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Such as too many open files.
            Err(error) => {
                (mirror.options.log)(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let mirror = Arc::clone(&mirror);
        tokio::spawn(async move {
            mirror.connection(stream).await;
            drop(permit);
        });
    }
}

impl Mirror {
    async fn connection(self: &Arc<Mirror>, stream: TcpStream) {
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let mirror = Arc::clone(self);
            async move { Ok::<_, Infallible>(mirror.answer(&request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        // The error is that of a client that went away.
        let _ = served.await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return error(StatusCode::METHOD_NOT_ALLOWED, "the mirror only pulls");
        }
        let uri = request.uri();
        let Some(target) = Target::parse(uri.path(), uri.query(), &self.options.registries) else {
            return error(StatusCode::NOT_FOUND, "the mirror does not have this registry");
        };
        let is_head = request.method() == Method::HEAD;
        let answered = match &target.content {
            Content::Tag(_) => self.tag(&target, request.headers(), is_head).await,
            Content::Manifest(digest) | Content::Blob(digest) => {
                self.content(&target, digest, request).await
            }
            Content::Other => self.pass(&target, request.method(), request.headers()).await,
        };
        answered.unwrap_or_else(|fault| {
            (self.options.log)(&format!("{}: {fault}", target.path));
            error(StatusCode::BAD_GATEWAY, &fault.to_string())
        })
    }

    /// Answers a tag: with the registry's manifest, or with the image that is made of it.
    async fn tag(
        &self,
        target: &Target,
        headers: &HeaderMap,
        is_head: bool,
    ) -> Result<Response<Body>, MirrorError> {
        if is_head {
            let response = self.registries.pass(&Method::HEAD, target, headers).await?;
            let digest = response.headers().get(&DIGEST).and_then(|value| value.to_str().ok());
            let is_known = digest.is_some_and(|digest| self.converted.is_ordinary(digest));
            if !response.status().is_success() || is_known {
                return Ok(handed_on(response, true));
            }
        }
        let response = self.registries.pass(&Method::GET, target, headers).await?;
        let media_type = response.headers().get(CONTENT_TYPE);
        let media_type =
            media_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let is_document = media::is_index(&media_type) || media::is_manifest(&media_type);
        if !response.status().is_success() || !is_document {
            return Ok(handed_on(response, is_head));
        }
        let (status, mut kept) = (response.status(), filtered(response.headers()));
        let bytes = upstream::document(target, response).await?;
        let converted =
            self.converted.convert(&self.registries, target, &media_type, &bytes, headers).await;
        match converted {
            Ok(Some(found)) => return Ok(of_found(&found, None, is_head)),
            Ok(None) => {}
            // It is handed on as it is, and the client says that it cannot run it.
            Err(fault) => {
                (self.options.log)(&format!("{}: not converted: {fault}", target.path));
            }
        }
        kept.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        if !kept.contains_key(&DIGEST)
            && let Ok(value) = HeaderValue::from_str(&blob::digest(&bytes))
        {
            kept.insert(DIGEST, value);
        }
        let body = if is_head { empty() } else { full(bytes) };
        Ok(response_of(status, kept, body))
    }

    /// Answers a digest: with content that was made here, or with the registry's.
    async fn content(
        &self,
        target: &Target,
        digest: &str,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, MirrorError> {
        let (method, headers) = (request.method(), request.headers());
        let Some(found) = self.converted.find(target, digest) else {
            return self.pass(target, method, headers).await;
        };
        // The registry decides whether the client may read the original.
        let path = format!("/v2/{}/manifests/{}", target.name, found.original);
        let original = Target { path, ..target.clone() };
        let mut asked = headers.clone();
        asked.remove(RANGE);
        asked.insert(hyper::header::ACCEPT, HeaderValue::from_static(DOCUMENTS));
        let allowed = self.registries.pass(&Method::HEAD, &original, &asked).await?;
        if !allowed.status().is_success() {
            return Ok(handed_on(allowed, true));
        }
        Ok(of_found(&found, headers.get(RANGE), method == Method::HEAD))
    }

    async fn pass(
        &self,
        target: &Target,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, MirrorError> {
        let response = self.registries.pass(method, target, headers).await?;
        Ok(handed_on(response, method == Method::HEAD))
    }
}

/// The answer with content that was made here, from the offset on that a `Range` names.
fn of_found(found: &Found, range: Option<&HeaderValue>, is_head: bool) -> Response<Body> {
    let size = found.data.size();
    let offset = range.and_then(|value| {
        let offset =
            value.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?;
        (offset < size).then_some(offset)
    });
    let mut headers = HeaderMap::new();
    let mut insert = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let start: u64 = offset.unwrap_or(0);
    insert(CONTENT_TYPE, &found.media_type);
    insert(DIGEST, &found.digest);
    insert(CONTENT_LENGTH, &(size - start).to_string());
    insert(API_VERSION, "registry/2.0");
    let status = match offset {
        None => StatusCode::OK,
        Some(start) => {
            insert(CONTENT_RANGE, &format!("bytes {start}-{}/{size}", size - 1));
            StatusCode::PARTIAL_CONTENT
        }
    };
    let body = if is_head { empty() } else { of_data(&found.data, start) };
    response_of(status, headers, body)
}

/// The body of a blob, from an offset on.
fn of_data(data: &Data, offset: u64) -> Body {
    let pieces = stream::unfold(Some(data.reader_from(offset)), |reader| async move {
        let mut reader = reader?;
        // It reads a file.
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            (read.map(|_| piece), reader)
        });
        match read.await {
            Ok((Ok(piece), _)) if piece.is_empty() => None,
            Ok((Ok(piece), reader)) => Some((Ok(Frame::data(Bytes::from(piece))), Some(reader))),
            Ok((Err(error), _)) => Some((Err(error.into()), None)),
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    StreamBody::new(pieces.boxed()).boxed_unsync()
}

/// Hands an answer on, with its body unless it answers HEAD.
fn handed_on(response: reqwest::Response, is_head: bool) -> Response<Body> {
    let (status, headers) = (response.status(), filtered(response.headers()));
    if is_head {
        return response_of(status, headers, empty());
    }
    let pieces = response.bytes_stream().map_ok(Frame::data).map_err(Into::into);
    response_of(status, headers, StreamBody::new(pieces.boxed()).boxed_unsync())
}

/// The headers without those of the connection.
fn filtered(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove("keep-alive");
    headers
}

fn response_of(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An error in the form of registries.
fn error(status: StatusCode, message: &str) -> Response<Body> {
    let code = if status == StatusCode::NOT_FOUND { "NAME_UNKNOWN" } else { "UNKNOWN" };
    let message = format!("wherry-node mirror: {message}");
    let text = json!({"errors": [{"code": code, "message": message}]}).to_string();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response_of(status, headers, full(text.into_bytes()))
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
