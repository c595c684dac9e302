//! A client of containerd's gRPC API: its images, their content, and the events of both.
//!
//! All functions block. Each client has a runtime, on which nothing runs between two calls: threads
//! that work at the same time have a client each.

mod api;
mod content;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub use content::Content;

/// A working daemon answers in milliseconds.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest answer: a list of some ten thousand images.
const ANSWER_MAX: usize = 16 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// The runtime of network connections cannot be started.
    #[error("cannot start network connections: {0}")]
    Runtime(#[source] std::io::Error),
    /// containerd does not answer.
    #[error("containerd at {}: {reason}", .address.display())]
    Unavailable {
        /// Its socket.
        address: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The content, or the image, does not exist.
    #[error("containerd has no {0}")]
    NotFound(String),
    /// containerd refused a call.
    #[error("containerd: {method}: {reason}")]
    Call {
        /// The method.
        method: &'static str,
        /// containerd's text.
        reason: String,
    },
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, ContainerdError>;

/// The content of an image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The name.
    pub name: String,
    /// The media type of its index or manifest.
    pub media_type: String,
    /// The digest of its index or manifest.
    pub digest: String,
    /// The size of its index or manifest, in bytes.
    pub size: u64,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The containerd namespace.
    pub namespace: String,
    /// The topic, like `/images/create`.
    pub topic: String,
}

/// A connection to containerd. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    runtime: Arc<tokio::runtime::Runtime>,
    channel: Channel,
    address: PathBuf,
}

impl Client {
    /// Prepares a connection to a socket. The first call opens it.
    ///
    /// # Errors
    /// If no runtime can be started, or the path cannot be an address.
    pub fn new(socket: &Path) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ContainerdError::Runtime)?;
        let address = socket.to_owned();
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|error| {
                ContainerdError::Unavailable { address: address.clone(), reason: error.to_string() }
            })?;
        // Its tasks are those of the runtime.
        let channel = {
            let _guard = runtime.enter();
            endpoint.connect_timeout(LIMIT).connect_lazy()
        };
        Ok(Client { runtime: Arc::new(runtime), channel, address })
    }

    /// The names of all namespaces.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        const METHOD: &str = "/containerd.services.namespaces.v1.Namespaces/List";
        let answer: api::Namespaces = self.unary(METHOD, None, api::Nothing {})?;
        Ok(answer.namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// The images of a namespace.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub fn images(&self, namespace: &str) -> Result<Vec<Stored>> {
        const METHOD: &str = "/containerd.services.images.v1.Images/List";
        let answer: api::Images = self.unary(METHOD, Some(namespace), api::Nothing {})?;
        let stored = |image: api::Image| {
            let target = image.target?;
            Some(Stored {
                name: image.name,
                media_type: target.media_type,
                digest: target.digest,
                size: u64::try_from(target.size).ok()?,
            })
        };
        Ok(answer.images.into_iter().filter_map(stored).collect())
    }

    /// Opens a blob of a namespace for reading, from an offset on.
    ///
    /// # Errors
    /// [`ContainerdError::NotFound`], or containerd does not answer.
    pub fn read(&self, namespace: &str, digest: &str, offset: u64) -> Result<Content> {
        const METHOD: &str = "/containerd.services.content.v1.Content/Read";
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = api::ReadContent { digest: digest.to_owned(), offset };
        let stream = self.within(METHOD, digest, self.stream(METHOD, Some(namespace), request))?;
        Ok(Content::new(self.clone(), stream))
    }

    /// Calls `on_event` for each event of the topics that `filters` select, in all namespaces, and
    /// with `None` when none has come for `pause`. Returns when the connection ends, or with the
    /// error of `on_event`.
    ///
    /// # Errors
    /// Those, converted.
    pub fn events<E: From<ContainerdError>>(
        &self,
        filters: &[&str],
        mut pause: impl FnMut() -> Duration,
        mut on_event: impl FnMut(Option<Event>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        const METHOD: &str = "/containerd.services.events.v1.Events/Subscribe";
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let request = api::Subscribe { filters };
        // containerd answers the request with its first event.
        let mut opening = Box::pin(self.stream::<api::Envelope>(METHOD, None, request));
        let mut stream = loop {
            match self.wait(pause(), &mut opening) {
                Some(opened) => {
                    break opened.map_err(|status| self.fault(METHOD, "events", &status))?;
                }
                None => on_event(None)?,
            }
        };
        loop {
            match self.wait(pause(), stream.message()) {
                None => on_event(None)?,
                Some(Err(status)) => return Err(self.fault(METHOD, "events", &status).into()),
                Some(Ok(None)) => return Ok(()),
                Some(Ok(Some(envelope))) => {
                    on_event(Some(Event { namespace: envelope.namespace, topic: envelope.topic }))?
                }
            }
        }
    }

    fn unary<A: prost::Message + Default + 'static>(
        &self,
        method: &'static str,
        namespace: Option<&str>,
        message: impl prost::Message + 'static,
    ) -> Result<A> {
        let request = request(namespace, message);
        let call = async {
            let mut client = self.grpc().await?;
            let path = PathAndQuery::from_static(method);
            client.unary(request?, path, ProstCodec::default()).await
        };
        Ok(self.within(method, "answer", call)?.into_inner())
    }

    async fn stream<A: prost::Message + Default + 'static>(
        &self,
        method: &'static str,
        namespace: Option<&str>,
        message: impl prost::Message + 'static,
    ) -> std::result::Result<Streaming<A>, Status> {
        let request = request(namespace, message)?;
        let mut client = self.grpc().await?;
        let path = PathAndQuery::from_static(method);
        let answer = client.server_streaming(request, path, ProstCodec::default()).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn grpc(&self) -> std::result::Result<tonic::client::Grpc<Channel>, Status> {
        let mut client =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX);
        client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(client)
    }

    /// Waits for a call, which has a time limit. `what` is the name of what may not exist.
    fn within<T>(
        &self,
        method: &'static str,
        what: &str,
        call: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        let late = || ContainerdError::Unavailable {
            address: self.address.clone(),
            reason: format!("it did not answer for {} s", LIMIT.as_secs()),
        };
        let answer = self.wait(LIMIT, call).ok_or_else(late)?;
        answer.map_err(|status| self.fault(method, what, &status))
    }

    /// Waits for a future. `None`: it takes longer than `limit`.
    fn wait<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(limit, future).await.ok() })
    }

    fn fault(&self, method: &'static str, what: &str, status: &Status) -> ContainerdError {
        match status.code() {
            Code::NotFound => ContainerdError::NotFound(what.to_owned()),
            Code::Unavailable | Code::Unknown | Code::Cancelled => {
                ContainerdError::Unavailable { address: self.address.clone(), reason: root(status) }
            }
            _ => ContainerdError::Call { method, reason: status.message().to_owned() },
        }
    }
}

/// Makes a request, in a namespace if one is given.
fn request<M>(namespace: Option<&str>, message: M) -> std::result::Result<Request<M>, Status> {
    let mut request = Request::new(message);
    if let Some(namespace) = namespace {
        let value = MetadataValue::try_from(namespace)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        request.metadata_mut().insert("containerd-namespace", value);
    }
    Ok(request)
}

/// The innermost cause: tonic's own text for a socket that does not answer is "transport error".
fn root(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_does_not_exist_is_named() {
        let client = Client::new(Path::new("/nowhere/c.sock")).unwrap();
        let error = client.namespaces().unwrap_err().to_string();
        assert!(error.starts_with("containerd at /nowhere/c.sock: "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
