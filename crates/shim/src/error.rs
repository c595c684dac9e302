//! Why a command of a shim, or of `wherry-E`, failed.

use std::io;
use std::path::PathBuf;

use containerd_shim_protos::protobuf;
use wherry_image::{CacheError, SizeError};
use wherry_protocol::Failure;
use wherry_supervisor::cleanup::CleanupError;

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line names an action that does not exist.
    #[error("unknown action {0:?}: expected start or delete")]
    UnknownAction(String),
    /// The command line names no action.
    #[error(
        "missing action: containerd calls this program with start or delete; -help lists the rest"
    )]
    MissingAction,
    /// The command line has a flag that does not exist.
    #[error("unknown flag -{0}")]
    UnknownFlag(String),
    /// A flag is the last word of the command line.
    #[error("flag -{0} needs a value")]
    MissingValue(String),
    /// A flag is missing that the action needs.
    #[error("flag -{0} is missing")]
    MissingFlag(&'static str),
    /// The command line of `wherry-E` is wrong.
    #[error("usage: {0}")]
    Usage(&'static str),

    /// The bundle's path cannot be resolved.
    #[error("cannot resolve the bundle path {}: {source}", .path.display())]
    Bundle {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not JSON, or has another structure than expected.
    #[error("cannot parse {}: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: serde_json::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),

    /// The engine host is missing.
    #[error(transparent)]
    Host(#[from] Failure),
    /// The daemon's socket cannot be bound.
    #[error("cannot listen on {}: {source}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The daemon cannot be forked.
    #[error("cannot fork the daemon: {0}")]
    Fork(#[source] io::Error),
    /// The daemon cannot run.
    #[error("cannot run the daemon: {0}")]
    Daemon(#[source] io::Error),
    /// The Task API cannot be served.
    #[error("cannot serve the Task API: {0}")]
    Serve(#[from] ttrpc::Error),
    /// A message to containerd cannot be encoded as protobuf.
    #[error("cannot encode the {what}: {source}")]
    Encode {
        /// The message.
        what: &'static str,
        /// The cause.
        source: protobuf::Error,
    },
    /// A message to containerd cannot be encoded as JSON.
    #[error("cannot encode the {what}: {source}")]
    EncodeJson {
        /// The message.
        what: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// A part of a dead container could not be removed.
    #[error("{}", join(.0))]
    Cleanup(Vec<CleanupError>),

    /// The engine cannot be loaded.
    #[error("cannot load the engine: {0}")]
    Engine(#[from] wherry_engine::LoadError),
    /// The engine compiles nothing ahead of time.
    #[error("{0} compiles nothing ahead of time: it interprets modules")]
    NoCompiler(&'static str),
    /// The file to compile is not WebAssembly.
    #[error("{0} is not WebAssembly: expected a module, a component or text")]
    NotWasm(String),
    /// The image to compile has no WebAssembly.
    #[error("image {0} contains no WebAssembly")]
    NoWasm(String),
    /// A module cannot be compiled.
    #[error("cannot compile {module}: {source}")]
    Compile {
        /// The module.
        module: String,
        /// The cause.
        source: CacheError,
    },
    /// A module is too large, or its size is unknown.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The cache does not keep the code.
    #[error("{0}")]
    NotCached(String),
    /// A temporary file or directory cannot be made.
    #[error("cannot make a temporary file: {0}")]
    Temporary(#[source] io::Error),
    /// The module cannot be copied to a temporary file.
    #[error("cannot copy the module: {0}")]
    Copy(#[source] io::Error),
    /// The path of this executable is unknown.
    #[error("cannot find this executable: {0}")]
    OwnExecutable(#[source] io::Error),
    /// The cache cannot be emptied.
    #[error("cannot remove all entries from {}: {source}", .path.display())]
    Prune {
        /// The cache's directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// Neither a file nor an image has this name.
    #[error("{reference} is not a file, and no such image was found: {}", sentences(.attempts))]
    NoImage {
        /// The name.
        reference: String,
        /// Why each daemon did not provide it.
        attempts: Vec<Error>,
    },
    /// containerd does not answer.
    #[error("cannot connect to containerd at {address}: {source}")]
    Connect {
        /// Its socket.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// containerd cannot mount the image.
    #[error("containerd, namespace {namespace}: {source}")]
    Mount {
        /// The namespace.
        namespace: String,
        /// The cause.
        source: Box<Error>,
    },
    /// Docker's layers are not directories.
    #[error("docker: the image is in another store than overlay2")]
    DockerStore,
    /// A program cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: String,
        /// The last line of its standard error.
        message: String,
    },
}

fn sentences(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn join(errors: &[CleanupError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
