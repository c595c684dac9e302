//! Which code each error has on the wire. The only such place.
//!
//! containerd's clients show the text and act on the code: NOT_FOUND means that the task or
//! process is not there (any more), and nothing else may have it.

use ttrpc::Code;
use wherry_container::Error;
use wherry_protocol::FailureKind;
use wherry_protocol::failure::shortened;
use wherry_sys::process::SignalError;

/// An error of a request: a code and a sentence.
pub(crate) fn status(code: Code, text: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, shortened(text.into())))
}

/// A request for a container that there is none of.
pub(crate) fn no_such_container(id: &str) -> ttrpc::Error {
    status(Code::NOT_FOUND, format!("container {id:?} not found"))
}

/// A request for an exec that there is none of.
pub(crate) fn no_such_exec(id: &str, exec_id: &str) -> ttrpc::Error {
    status(Code::NOT_FOUND, format!("exec {exec_id:?} of container {id:?} not found"))
}

/// What this shim does not do.
pub(crate) fn unimplemented(what: &str) -> ttrpc::Error {
    status(Code::UNIMPLEMENTED, format!("{what} is not supported for WebAssembly containers"))
}

/// The error of a container as the wire has it.
pub(crate) fn from_container(error: &Error) -> ttrpc::Error {
    let code = match error {
        Error::Failure(failure) => match failure.kind {
            FailureKind::Invalid => Code::INVALID_ARGUMENT,
            // As runc's shim has it: a program that is missing is told by the text, and a
            // client that reads NOT_FOUND would take the task itself for missing.
            FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::System => {
                Code::UNKNOWN
            }
        },
        Error::Refused(_) | Error::NotStarted | Error::NotRunning(_) => Code::FAILED_PRECONDITION,
        Error::ExecExists(_) => Code::ALREADY_EXISTS,
        Error::Terminal(_) | Error::NoTerminal => Code::INVALID_ARGUMENT,
        Error::Cgroup(_) => Code::UNKNOWN,
        Error::Thread(_) => Code::RESOURCE_EXHAUSTED,
        Error::Panicked => Code::INTERNAL,
        Error::Signal(SignalError::Gone) => {
            // runc's words: clients look for them.
            return status(Code::NOT_FOUND, "process already finished");
        }
        Error::Signal(SignalError::Unknown(_)) => Code::INVALID_ARGUMENT,
        Error::Signal(SignalError::Other(_)) => Code::UNKNOWN,
        Error::Gone => Code::NOT_FOUND,
    };
    status(code, error.to_string())
}
