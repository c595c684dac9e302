//! Why a part of a manager failed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// The result of a function of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a part of a manager failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The settings cannot be read.
    #[error("cannot read the manager's settings from {}: {source}", .path.display())]
    ReadSettings { path: PathBuf, source: io::Error },
    /// The settings are invalid.
    #[error("invalid manager's settings in {}, line {line}, column {column}: {message}", .path.display())]
    Settings { path: PathBuf, line: usize, column: usize, message: String },
    /// A command has an argument that it does not take.
    #[error("unexpected argument {argument:?}: usage: {usage}")]
    Usage { argument: String, usage: &'static str },

    /// The control sockets cannot be listed.
    #[error("cannot list the managers' control sockets in {}: {source}", .path.display())]
    List { path: PathBuf, source: io::Error },
    /// A command has no runtime.
    #[error("cannot ask the managers: {0}")]
    Runtime(io::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Print(io::Error),
    /// The status cannot be encoded.
    #[error("cannot encode the status as JSON: {0}")]
    Encode(serde_json::Error),

    /// The file of variables for systemd's unit cannot be written.
    #[error("cannot write {} for systemd's unit: {source}", .path.display())]
    WriteVariables { path: PathBuf, source: io::Error },
    /// systemctl cannot be executed.
    #[error("cannot run systemctl to start {unit}: {source}")]
    Systemctl { unit: String, source: io::Error },
    /// systemd has not started the unit.
    #[error(
        "systemd did not start {unit} ({status}): {message}; `journalctl -u {unit}` has the manager's log"
    )]
    Launch { unit: String, status: ExitStatus, message: String },
}

/// Why a manager did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It did not accept the connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// It did not speak HTTP.
    #[error("invalid answer: {0}")]
    Http(#[from] hyper::Error),
    /// It answered with an error.
    #[error("it answers {0}")]
    Status(hyper::StatusCode),
    /// The answer is too long.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer is not a status: it may be that of another version.
    #[error("invalid status: {0}")]
    Json(#[from] serde_json::Error),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
}
