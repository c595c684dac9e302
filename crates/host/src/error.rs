//! The errors of this crate, and their conversion to a [`Failure`].

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use wherry_bundle::{BundleError, ParseError};
use wherry_cgroup::{CgroupError, PathError};
use wherry_engine::OptionError;
use wherry_protocol::message::WrongDescriptors;
use wherry_protocol::{Failure, FailureKind, error_text};

use crate::cgroup::LimitsError;
use crate::console::ConsoleError;
use crate::mount::MountError;
use crate::plugins::PluginError;
use crate::seccomp_listener::ListenerError;
use crate::spec_rewrite::RewriteError;
use crate::validate::ConfigError;

/// Why the engine host could not fork a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The engine could not be loaded when this process started.
    #[error("{0}")]
    Engine(String),
    #[error("config.json: {0}")]
    Config(ConfigError),
    #[error(transparent)]
    Http(OptionError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The process of an exec.
    #[error("the process to execute: {0}")]
    ParseProcess(ParseError),
    #[error("the process to execute: {0}")]
    Process(ConfigError),
    #[error("cannot use the root filesystem {}: {source}", .path.display())]
    RootFilesystem { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Plugins(#[from] PluginError),
    #[error(transparent)]
    Descriptors(#[from] WrongDescriptors),
    #[error("cannot {action} {}: {source}", .path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    /// The setup channel is broken.
    #[error("lost the connection to the shim: {0}")]
    Channel(io::Error),
    /// The daemon could not create the cgroup; the text is the daemon's.
    #[error("{0}")]
    CgroupRefused(String),
    #[error("the shim ended before it created the cgroup")]
    NoCgroup,
    #[error(transparent)]
    CgroupPath(#[from] PathError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error(transparent)]
    Libcontainer(#[from] LibraryError),
    #[error("cannot open the user namespace of the container: {0}")]
    UserNamespace(io::Error),
    #[error("container {0:?} has no first process")]
    NoFirstProcess(String),
}

impl HostError {
    /// An error of the call `action` on `path`.
    pub(crate) fn path(action: &'static str, path: &Path, source: io::Error) -> HostError {
        HostError::Path { action, path: path.to_owned(), source }
    }

    /// An error that libcontainer returned.
    pub(crate) fn libcontainer(error: impl Error + 'static) -> HostError {
        HostError::Libcontainer(LibraryError::new(error))
    }

    fn kind(&self) -> FailureKind {
        match self {
            HostError::Config(_)
            | HostError::Http(_)
            | HostError::Bundle(_)
            | HostError::ParseProcess(_)
            | HostError::Process(_)
            | HostError::RootFilesystem { .. }
            | HostError::CgroupPath(_)
            | HostError::Plugins(_) => FailureKind::Invalid,
            _ => FailureKind::System,
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Failure {
        Failure::new(error.kind(), error.to_string())
    }
}

/// An error of libcontainer or of a library that it uses. Shown with its causes, as one sentence:
/// some of these errors do not return their cause as their source, and contain it only in their
/// `Debug` form.
#[derive(Debug)]
pub(crate) struct LibraryError(Box<dyn Error>);

impl LibraryError {
    pub(crate) fn new(error: impl Error + 'static) -> LibraryError {
        LibraryError(Box::new(error))
    }
}

impl fmt::Display for LibraryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(inner) = cause {
            let more = inner.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = inner.source();
        }
        match error_text::cause(&format!("{:?}", self.0)) {
            Some(cause) if !text.contains(&cause) => text = format!("{text}: {cause}"),
            _ => {}
        }
        f.write_str(&text.replace('\n', " "))
    }
}

impl Error for LibraryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn a_cause_in_the_debug_form_alone_is_in_the_sentence() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to\nmount")]
        struct Outer(#[allow(dead_code)] Errno);
        let error = LibraryError::new(Outer(Errno::ENODEV));
        assert_eq!(error.to_string(), "failed to mount: No such device");
    }

    #[test]
    fn a_wrong_configuration_is_the_users_and_a_broken_channel_the_machines() {
        let kind = |error: HostError| Failure::from(error).kind;
        assert_eq!(kind(HostError::Config(ConfigError::Missing("linux"))), FailureKind::Invalid);
        assert_eq!(kind(HostError::NoCgroup), FailureKind::System);
    }
}
