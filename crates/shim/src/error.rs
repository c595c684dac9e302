//! Why a command of a shim failed.

use std::io;
use std::path::PathBuf;

use containerd_shim_protos::protobuf;
use wherry_protocol::Failure;
use wherry_supervisor::cleanup::CleanupError;
use wherry_sys::handover::ResumeError;

use crate::upgrade::DocumentError;

use crate::operator::OperatorError;

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line names an action that does not exist.
    #[error("unknown action {0:?}: expected start, delete or upgrade")]
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
    /// The path of this executable is unknown.
    #[error("cannot find this executable: {0}")]
    Own(#[source] io::Error),
    /// A daemon cannot continue from the document of a handover.
    #[error("cannot continue from the state of the running shim: {0}")]
    Resume(#[from] ResumeError),
    /// The document of a handover is that of another version, or of another runtime.
    #[error("{0}")]
    Document(#[from] DocumentError),
    /// Some daemons were not upgraded; the reasons were printed.
    #[error("{failed} of {all} shims were not upgraded")]
    NotUpgraded {
        /// Their number.
        failed: usize,
        /// The number of all.
        all: usize,
    },
    /// A manager serves already where another should start.
    #[error("a manager already serves at {}", .0.display())]
    Served(PathBuf),
    /// systemd has started a manager, which does not serve.
    #[error("the manager that systemd started does not serve at {}: see its journal", .0.display())]
    NotServed(PathBuf),
    /// The settings of a manager are invalid, or systemd cannot run it.
    #[error(transparent)]
    Operator(OperatorError),
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
}

fn join(errors: &[CleanupError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
