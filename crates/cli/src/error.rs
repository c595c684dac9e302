//! Why a command of `wherry-E` failed.

use std::io;
use std::path::PathBuf;

use wherry_host::filter::FilterError;
use wherry_host::plugins::PluginError;
use wherry_image::{CacheError, SizeError};

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
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
    /// The file to run cannot be opened.
    #[error("cannot open {}: {source}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file to run is invalid, or cannot be compiled or loaded.
    #[error("{}: {cause}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: LoadCause,
    },
    /// An engine's plug-in cannot be loaded.
    #[error(transparent)]
    Plugins(#[from] PluginError),
    /// A path cannot be made absolute.
    #[error("cannot resolve {}: {source}", .path.display())]
    Resolve {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The guest cannot be confined.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The guest cannot start.
    #[error(transparent)]
    Start(#[from] wherry_engine::StartError),
    /// The path of this executable is unknown.
    #[error("cannot find this executable: {0}")]
    OwnExecutable(#[source] io::Error),
    /// The cache cannot be used.
    #[cfg(feature = "watch")]
    #[error("cannot use the cache {}: {source}", .path.display())]
    Cache {
        /// The cache's directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// containerd's API.
    #[cfg(feature = "watch")]
    #[error(transparent)]
    Containerd(#[from] wherry_containerd::ContainerdError),
    /// An image cannot be read.
    #[cfg(feature = "watch")]
    #[error(transparent)]
    Image(#[from] wherry_oci::OciError),
    /// A thread cannot be started.
    #[cfg(feature = "watch")]
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
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
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file, or its directory.
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
}

/// Why a file cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadCause {
    /// It is too large, or its size is unknown.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// It cannot be read, or memory for its code is missing.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has another format.
    #[error("not WebAssembly: expected a module, a component or text")]
    NotWasm,
    /// The compiler refuses it.
    #[error(transparent)]
    Compile(#[from] wherry_engine::CompileError),
    /// The engine refuses it.
    #[error(transparent)]
    Engine(#[from] wherry_engine::LoadError),
}

impl Error {
    /// Returns the exit status: that of a shell for a program that cannot be run, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Error::Open { .. } => 126,
            _ => 1,
        }
    }
}

fn sentences(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_run_has_the_exit_status_of_a_shell() {
        let open = |kind: io::ErrorKind| Error::Open { path: "/x".into(), source: kind.into() };
        assert_eq!(open(io::ErrorKind::NotFound).exit_code(), 127);
        assert_eq!(open(io::ErrorKind::PermissionDenied).exit_code(), 126);
        assert_eq!(Error::NoCompiler("wamr").exit_code(), 1);
    }

    #[test]
    fn an_image_that_no_daemon_has_names_the_reason_of_each() {
        let attempts = vec![
            Error::Connect { address: "/c.sock".into(), source: io::ErrorKind::NotFound.into() },
            Error::DockerStore,
        ];
        let text = Error::NoImage { reference: "hello".into(), attempts }.to_string();
        assert_eq!(
            text,
            "hello is not a file, and no such image was found: cannot connect to containerd at \
             /c.sock: entity not found; docker: the image is in another store than overlay2"
        );
    }
}
