//! The errors of this crate. Each names the image, file or digest at fault.

use std::io;
use std::path::PathBuf;

use wherry_image::Size;
use wherry_layer::LayerError;

/// The result of an operation.
pub type Result<T> = std::result::Result<T, OciError>;

/// Why an operation on an image failed.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file or directory cannot be read or written.
    #[error("{}: cannot {action} it: {source}", .path.display())]
    File {
        /// The action, as a verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A temporary file cannot be written.
    #[error("cannot write a temporary file: {0}; TMPDIR names another directory")]
    Temporary(#[source] io::Error),
    /// A blob cannot be read.
    #[error("cannot read {digest}: {source}")]
    Blob {
        /// Its digest.
        digest: String,
        /// The cause.
        source: io::Error,
    },
    /// An archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Archive(#[source] io::Error),
    /// A value has no JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A document cannot be made.
    #[error("cannot describe the image: {0}")]
    Describe(#[from] oci_spec::OciSpecError),

    /// A blob is missing.
    #[error("{kind} {digest} is missing: the image is incomplete")]
    Missing {
        /// The kind of the blob, like `layer`.
        kind: &'static str,
        /// Its digest.
        digest: String,
    },
    /// A blob has another size than its descriptor.
    #[error("{digest} has {found}, and its descriptor says {expected}: the content is damaged")]
    WrongSize {
        /// Its digest.
        digest: String,
        /// The size of the content, or of its part up to the first excess byte.
        found: Size,
        /// The size in the descriptor.
        expected: Size,
    },
    /// A blob has another digest than its descriptor.
    #[error("{expected} has the digest {found}: the content is damaged")]
    WrongDigest {
        /// The digest in the descriptor.
        expected: String,
        /// The digest of the content.
        found: String,
    },
    /// A digest has another algorithm.
    #[error("{0}: digests are verified with sha256 only")]
    Algorithm(String),
    /// A manifest, index or configuration is invalid.
    #[error("{kind} {digest} is invalid: {reason}")]
    Invalid {
        /// The kind of the document.
        kind: &'static str,
        /// Its digest.
        digest: String,
        /// The reason.
        reason: String,
    },
    /// A document is too large.
    #[error("{kind} {digest} has {size}, more than the {max} that are accepted")]
    TooLarge {
        /// The kind of the document or file.
        kind: &'static str,
        /// Its digest or path.
        digest: String,
        /// Its size.
        size: Size,
        /// The limit.
        max: Size,
    },
    /// A manifest has too many layers.
    #[error("manifest {digest} has {layers} layers, more than the {max} that can be mounted")]
    TooManyLayers {
        /// Its digest.
        digest: String,
        /// The number of its layers.
        layers: usize,
        /// The limit.
        max: usize,
    },
    /// A layer unpacks to too much.
    #[error("layer {digest} unpacks to more than {max}: it is damaged or malicious")]
    Bomb {
        /// Its digest.
        digest: String,
        /// The limit.
        max: Size,
    },
    /// A layer is not the archive that its media type promises.
    #[error("layer {digest} is not a tar archive, as its media type {media_type} says: {reason}")]
    NotTar {
        /// Its digest.
        digest: String,
        /// Its media type.
        media_type: String,
        /// The reason.
        reason: String,
    },
    /// A layer is not the WebAssembly that its media type promises.
    #[error("layer {digest}: {source}")]
    NotWasm {
        /// Its digest.
        digest: String,
        /// The reason.
        source: LayerError,
    },

    /// A file is not WebAssembly.
    #[error("{name}: {source}")]
    Module {
        /// Its name.
        name: String,
        /// The reason.
        source: LayerError,
    },
    /// A binary cannot be decoded.
    #[error("invalid WebAssembly: {0}")]
    Decode(String),
    /// A layout has no index, or several images.
    #[error("{}: {reason}", .path.display())]
    Layout {
        /// Its path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A platform is malformed.
    #[error("invalid platform {0:?}: expected OS/ARCHITECTURE, like linux/amd64 or wasi/wasm")]
    Platform(String),
    /// No manifest of an index is for the machine or for WebAssembly.
    #[error("the image has no manifest for {wanted}; it has {found}")]
    NoPlatform {
        /// The wanted platforms.
        wanted: String,
        /// The platforms in the index.
        found: String,
    },
    /// An artifact has several modules.
    #[error(
        "the artifact has {0} layers of WebAssembly: the Wasm OCI artifact layout allows one, and no client \
         composes several"
    )]
    SeveralModules(usize),
    /// An artifact has no module.
    #[error("{0}")]
    NoModule(String),
    /// A Spin application.
    #[error(
        "it is a Spin application, whose triggers and components only Spin and its containerd shim run: \
         `spin up --from` starts it"
    )]
    Spin,
    /// An image that needs no conversion.
    #[error(
        "it is an ordinary image, which every client runs as it is: there is nothing to convert"
    )]
    Ordinary,
    /// An unknown kind of artifact.
    #[error(
        "its configuration has the media type {0}, which is neither an image's nor a WebAssembly artifact's"
    )]
    UnknownConfig(String),
    /// The entrypoint of an image is not a module.
    #[error("the entrypoint of the image is not WebAssembly: {0}")]
    Entrypoint(String),

    /// An image's name is malformed.
    #[error("invalid image name {name:?}: {reason}")]
    Reference {
        /// The name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A registry refused a request, or cannot be reached.
    #[error("{reference}: {reason}")]
    Registry {
        /// The image's name.
        reference: String,
        /// The reason, with the advice to the user.
        reason: String,
    },
    /// Docker's configuration or a credential helper is invalid.
    #[error("cannot get the credentials for {registry}: {reason}")]
    Credentials {
        /// The registry.
        registry: String,
        /// The reason.
        reason: String,
    },
    /// A certificate cannot be used.
    #[error("{}: cannot set up TLS: {reason}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The runtime of network connections cannot be started.
    #[error("cannot start network connections: {0}")]
    Network(#[source] io::Error),

    /// A client program cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A client program failed.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// The last line of its standard error.
        message: String,
    },
    /// The name is that of another image.
    #[error(
        "{store} has a native image of the name {name}: remove it first, choose another name with --tag, or pass --force"
    )]
    NameTaken {
        /// The store.
        store: &'static str,
        /// The name.
        name: String,
    },
}

impl OciError {
    /// For `map_err`: the action that failed, and its file.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> OciError {
        let path = path.into();
        move |source| OciError::File { action, path, source }
    }
}
