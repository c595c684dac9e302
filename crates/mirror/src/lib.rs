//! A registry on loopback for containerd's `hosts.toml`: it hands requests on to the registry that
//! they are for, and answers a tag of an artifact of WebAssembly with an image.
//!
//! | module | subject |
//! |---|---|
//! | `target` | the registry and the content that a request names |
//! | `upstream` | requests to registries, with the client's credentials |
//! | `converted` | the images that were made of artifacts |
//! | `serve` | the answers |
//!
//! Only a tag is answered with another content: containerd compares the content of a digest. The
//! conversion is deterministic, so each node answers the same image, whose content is requested by
//! its digests then.
//!
//! Credentials are the client's. A request for content that was made here is sent to the registry
//! too, for the original, so that no client gets what the registry would not give it.

mod converted;
mod serve;
mod target;
mod upstream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use wherry_oci::Platform;

/// A registry that is mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in images, like `ghcr.io` or `localhost:5000`.
    pub name: String,
    /// Use HTTP without TLS.
    pub plain_http: bool,
}

/// The settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The registries.
    pub registries: Vec<Upstream>,
    /// Files of certificates in PEM form that are accepted besides the machine's.
    pub certificates: Vec<PathBuf>,
    /// The time after which a registry that sends nothing has stalled.
    pub timeout: Duration,
    /// Receives lines for the log.
    pub log: fn(&str),
}

/// Why the mirror does not serve, or a request fails.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The address is taken or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The address is not of loopback: other machines would use this one's access.
    #[error("{0} is not an address of loopback")]
    Address(SocketAddr),
    /// A certificate cannot be used.
    #[error("{}: {reason}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The client of registries, or the runtime, cannot be started.
    #[error("cannot start network connections: {0}")]
    Start(String),
    /// A registry does not answer.
    #[error("{registry}: {reason}")]
    Upstream {
        /// The registry.
        registry: String,
        /// The cause.
        reason: String,
    },
    /// A registry refused a request that the conversion needs.
    #[error("{registry} answered {path} with the status {status}")]
    Status {
        /// The registry.
        registry: String,
        /// The path.
        path: String,
        /// The status.
        status: u16,
    },
    /// The artifact cannot be converted.
    #[error(transparent)]
    Oci(#[from] wherry_oci::OciError),
}

/// The platforms of converted images: the same on machines of all architectures.
fn platforms() -> Vec<Platform> {
    let linux = |architecture: &str| Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
    };
    vec![Platform::wasm(), linux("amd64"), linux("arm64")]
}

/// Serves until the process is ended.
///
/// # Errors
/// If it cannot begin to.
pub fn serve(options: Options) -> Result<Infallible, MirrorError> {
    if !options.listen.ip().is_loopback() {
        return Err(MirrorError::Address(options.listen));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| MirrorError::Start(error.to_string()))?;
    runtime.block_on(serve::serve(options))
}
