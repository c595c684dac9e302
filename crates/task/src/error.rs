//! Why a request failed, and the RPC code of each cause. No other file chooses a code.
//!
//! containerd's clients print the text and act on the code. NOT_FOUND means that the task or
//! process does not exist (any more); no other failure may use it, because clients then discard the
//! task.

use containerd_shim_protos::protobuf;
use ttrpc::Code;
use wherry_container::Error as ContainerError;
use wherry_protocol::FailureKind;
use wherry_protocol::failure::shortened;
use wherry_sys::process::SignalError;

use crate::options::OptionsError;
use crate::sandbox::PodConfigError;

/// The result of a request.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No container has the id of the request.
    #[error("container {0:?} not found")]
    ContainerNotFound(String),
    /// The container has no exec with the id of the request.
    #[error("exec {exec_id:?} of container {id:?} not found")]
    ExecNotFound { id: String, exec_id: String },
    /// Another container, or another Create, has the id.
    #[error("container {0:?} already exists")]
    ContainerExists(String),
    /// The daemon has made no pod with the id of the request.
    #[error("pod sandbox {0:?} not found")]
    PodNotFound(String),
    /// Another pod, or another CreateSandbox, has the id.
    #[error("pod sandbox {0:?} already exists")]
    PodExists(String),
    /// The cgroup above those of the pod's containers is not known.
    #[error("no usage of pod sandbox {0:?} is known: it has no parent cgroup")]
    NoPodUsage(String),
    /// The id cannot be part of a path.
    #[error("invalid {kind} id {id:?}: allowed are letters, digits, '-', '_' and '.', 255 at most")]
    InvalidId { kind: &'static str, id: String },
    /// The daemon and its client may have different working directories.
    #[error("invalid bundle path {0:?}: the path must be absolute")]
    RelativeBundle(String),
    /// The method or field has no implementation here.
    #[error("{0} is not supported for WebAssembly containers")]
    Unsupported(&'static str),
    /// The daemon has removed its socket and ends as soon as its connections are quiet.
    #[error("the shim is shutting down: create the container again")]
    ShuttingDown,
    /// The configuration of the pod is invalid.
    #[error(transparent)]
    PodConfig(#[from] PodConfigError),
    /// The runtime options of the request are invalid.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The payload has another type than the method takes.
    #[error("invalid {field}: expected type {expected}, found {found:?}")]
    PayloadType { field: &'static str, expected: &'static str, found: String },
    /// The payload cannot be parsed.
    #[error("invalid {field}: {cause}")]
    Payload { field: &'static str, cause: String },
    /// The container ended before its cgroup was read.
    #[error("no usage of container {0:?} was recorded: it ended before its cgroup was read")]
    NoUsage(String),
    /// The answer cannot be encoded.
    #[error("cannot encode {type_url}: {source}")]
    Encode { type_url: String, source: protobuf::Error },
    /// The request cannot be decoded.
    #[error("cannot decode the {method} request: {source}")]
    Decode { method: String, source: ttrpc::Error },
    /// The method panicked.
    #[error("{method} failed: {source}")]
    Panicked { method: String, source: tokio::task::JoinError },
    /// The container refused the request or failed to do it.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

impl Error {
    /// The RPC code of this cause.
    fn code(&self) -> Code {
        match self {
            Error::ContainerNotFound(_) | Error::ExecNotFound { .. } | Error::PodNotFound(_) => {
                Code::NOT_FOUND
            }
            Error::ContainerExists(_) | Error::PodExists(_) => Code::ALREADY_EXISTS,
            Error::InvalidId { .. }
            | Error::RelativeBundle(_)
            | Error::Options(_)
            | Error::PodConfig(_)
            | Error::PayloadType { .. }
            | Error::Payload { .. }
            | Error::Decode { .. } => Code::INVALID_ARGUMENT,
            Error::Unsupported(_) => Code::UNIMPLEMENTED,
            Error::ShuttingDown => Code::UNAVAILABLE,
            Error::NoUsage(_) | Error::NoPodUsage(_) => Code::FAILED_PRECONDITION,
            Error::Encode { .. } | Error::Panicked { .. } => Code::INTERNAL,
            Error::Container(error) => container_code(error),
        }
    }

    /// The status that the wire carries: the code, and a text of bounded length.
    pub(crate) fn status(&self) -> ttrpc::Status {
        let text = match self {
            // runc's words: clients search the text for them.
            Error::Container(ContainerError::Signal(SignalError::Gone)) => {
                "process already finished".to_owned()
            }
            error => error.to_string(),
        };
        ttrpc::get_status(self.code(), shortened(text))
    }
}

fn container_code(error: &ContainerError) -> Code {
    match error {
        ContainerError::Failure(failure) => match failure.kind {
            FailureKind::Invalid | FailureKind::Unsupported => Code::INVALID_ARGUMENT,
            // A missing program is not NOT_FOUND: a client would conclude that the task is missing.
            // runc's shim answers UNKNOWN too, and clients read the text.
            FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::System => {
                Code::UNKNOWN
            }
        },
        ContainerError::Refused(_)
        | ContainerError::Pod(_)
        | ContainerError::NotStarted
        | ContainerError::Starting
        | ContainerError::NotRunning(_) => Code::FAILED_PRECONDITION,
        ContainerError::ExecExists(_) => Code::ALREADY_EXISTS,
        ContainerError::Terminal(_) | ContainerError::NoTerminal => Code::INVALID_ARGUMENT,
        ContainerError::Cgroup(_) => Code::UNKNOWN,
        ContainerError::Thread(_) => Code::RESOURCE_EXHAUSTED,
        ContainerError::Panicked => Code::INTERNAL,
        ContainerError::Signal(SignalError::Gone) | ContainerError::Gone => Code::NOT_FOUND,
        ContainerError::Signal(SignalError::Unknown(_)) => Code::INVALID_ARGUMENT,
        ContainerError::Signal(SignalError::Other(_)) => Code::UNKNOWN,
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> ttrpc::Error {
        ttrpc::Error::RpcStatus(error.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_exist_is_not_found() {
        let missing_program =
            wherry_protocol::Failure::new(FailureKind::NotFound, "exec \"/x\": no such file");
        for (error, code) in [
            (Error::ContainerNotFound("a".into()), Code::NOT_FOUND),
            (Error::ExecNotFound { id: "a".into(), exec_id: "b".into() }, Code::NOT_FOUND),
            (Error::Container(ContainerError::Signal(SignalError::Gone)), Code::NOT_FOUND),
            (Error::Container(ContainerError::Failure(missing_program)), Code::UNKNOWN),
            (Error::ShuttingDown, Code::UNAVAILABLE),
        ] {
            assert_eq!(error.status().code(), code, "{error}");
        }
    }

    #[test]
    fn a_signal_to_an_ended_process_has_runcs_words() {
        let gone = Error::from(ContainerError::Signal(SignalError::Gone));
        assert_eq!(gone.status().message(), "process already finished");
    }

    #[test]
    fn every_cause_of_a_container_has_its_code() {
        let failure = |kind| ContainerError::Failure(wherry_protocol::Failure::new(kind, "x"));
        let io = || std::io::Error::other("x");
        for (error, code) in [
            (failure(FailureKind::Invalid), Code::INVALID_ARGUMENT),
            (failure(FailureKind::NotFound), Code::UNKNOWN),
            (failure(FailureKind::NotExecutable), Code::UNKNOWN),
            (failure(FailureKind::System), Code::UNKNOWN),
            (ContainerError::NotStarted, Code::FAILED_PRECONDITION),
            (ContainerError::Starting, Code::FAILED_PRECONDITION),
            (ContainerError::NotRunning("paused"), Code::FAILED_PRECONDITION),
            (ContainerError::ExecExists("e".into()), Code::ALREADY_EXISTS),
            (ContainerError::Terminal(io()), Code::INVALID_ARGUMENT),
            (ContainerError::NoTerminal, Code::INVALID_ARGUMENT),
            (ContainerError::Panicked, Code::INTERNAL),
            (ContainerError::Gone, Code::NOT_FOUND),
            (ContainerError::Signal(SignalError::Gone), Code::NOT_FOUND),
            (ContainerError::Signal(SignalError::Unknown(99)), Code::INVALID_ARGUMENT),
        ] {
            let text = error.to_string();
            assert_eq!(Error::from(error).status().code(), code, "{text}");
        }
    }

    #[test]
    fn every_cause_of_a_request_has_its_code() {
        let payload = || Error::Payload { field: "resources", cause: "x".into() };
        let found = String::from("other");
        for (error, code) in [
            (Error::ContainerExists("a".into()), Code::ALREADY_EXISTS),
            (Error::InvalidId { kind: "exec", id: "/".into() }, Code::INVALID_ARGUMENT),
            (Error::RelativeBundle("b".into()), Code::INVALID_ARGUMENT),
            (payload(), Code::INVALID_ARGUMENT),
            (
                Error::PayloadType { field: "resources", expected: "A", found },
                Code::INVALID_ARGUMENT,
            ),
            (Error::Unsupported("a checkpoint"), Code::UNIMPLEMENTED),
            (Error::NoUsage("a".into()), Code::FAILED_PRECONDITION),
        ] {
            assert_eq!(error.status().code(), code, "{error}");
        }
    }

    #[test]
    fn a_status_has_a_text_of_bounded_length() {
        let id = "x".repeat(1 << 20);
        let status = Error::ContainerNotFound(id).status();
        assert!(status.message().len() < 1100, "{}", status.message().len());
        assert!(status.message().ends_with("not found"));
    }
}
