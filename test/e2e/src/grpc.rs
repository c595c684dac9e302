//! Calls over gRPC, of CRI and of containerd's own API.

use std::path::Path;
use std::time::Duration;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// The deadline of a call, far above the time of any call that succeeds.
const LIMIT: Duration = Duration::from_secs(300);

/// A connection that is established on first use. Call it within a tokio runtime.
pub fn connect(socket: &Path) -> Channel {
    let address = format!("unix://{}", socket.display());
    Endpoint::from_shared(address).expect("an address").timeout(LIMIT).connect_lazy()
}

/// Calls a method, `package.Service/Method`, in a containerd namespace if one is given.
///
/// # Errors
/// The daemon's error.
pub async fn call<A: prost::Message + Default + 'static>(
    channel: &Channel,
    namespace: Option<&str>,
    method: &str,
    message: impl prost::Message + 'static,
) -> Result<A, Status> {
    let path = PathAndQuery::try_from(format!("/{method}")).expect("a path");
    let mut request = Request::new(message);
    if let Some(namespace) = namespace {
        let value = MetadataValue::try_from(namespace).expect("a namespace's name");
        request.metadata_mut().insert("containerd-namespace", value);
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    client.unary(request, path, ProstCodec::default()).await.map(tonic::Response::into_inner)
}
