//! Why a container cannot run: a kind, from which the client's error code follows, and a sentence.

use serde::{Deserialize, Serialize};

/// Why a container cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// One sentence for the user who typed the command.
    pub message: String,
}

/// The kind of a failure. Each kind has its exit status and gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program does not exist. A shell would exit with 127.
    NotFound,
    /// The program exists and cannot be executed. A shell would exit with 126.
    NotExecutable,
    /// The image or the configuration is invalid.
    Invalid,
    /// The machine failed: disk, memory, kernel.
    System,
    /// The engine does not run this module. Another engine may.
    Unsupported,
}

impl FailureKind {
    /// The exit status of a process that fails for this reason, as shells report it.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable | FailureKind::Invalid | FailureKind::Unsupported => 126,
            FailureKind::System => 125,
        }
    }
}

impl Failure {
    /// A failure with its sentence, which is shortened to [`SENTENCE_MAX`].
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: shortened(message.into()) }
    }
}

/// The approximate maximum length of a sentence, bytes.
const SENTENCE_MAX: usize = 1024;

/// Shortens a sentence to about [`SENTENCE_MAX`] bytes, so that it always fits into a message,
/// however long the names in it are. The start names the object of the error and the end its cause,
/// so the middle is cut out.
#[must_use]
pub fn shortened(text: String) -> String {
    if text.len() <= SENTENCE_MAX {
        return text;
    }
    let head = text.floor_char_boundary(SENTENCE_MAX / 2);
    let tail = text.ceil_char_boundary(text.len() - SENTENCE_MAX / 2);
    let part = |range| text.get(range).unwrap_or_default();
    format!("{} … {}", part(0..head), part(tail..text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_keeps_both_ends() {
        let short = shortened(format!("cannot open {}: is missing", "ü".repeat(100_000)));
        assert!(short.len() <= SENTENCE_MAX + 8, "{}", short.len());
        assert!(short.starts_with("cannot open ü") && short.ends_with("ü: is missing"));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn each_kind_has_the_exit_status_of_a_shell() {
        assert_eq!(FailureKind::NotFound.exit_status(), 127);
        assert_eq!(FailureKind::NotExecutable.exit_status(), 126);
        assert_eq!(FailureKind::Invalid.exit_status(), 126);
        assert_eq!(FailureKind::Unsupported.exit_status(), 126);
        assert_eq!(FailureKind::System.exit_status(), 125);
    }
}
