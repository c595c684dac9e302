//! Why a command of `wherry` failed.

use std::io;
use std::path::PathBuf;

use wherry_oci::OciError;

/// The result of a command: the text to print.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An operation on an image failed.
    #[error("{name}: {source}")]
    Image {
        /// The image or file.
        name: String,
        /// The cause.
        source: OciError,
    },
    /// An operation failed, and its text has the name.
    #[error(transparent)]
    Named(#[from] OciError),
    /// A file does not exist.
    #[error("{}: no such file or directory", .0.display())]
    NoFile(PathBuf),
    /// A file cannot be read.
    #[error("{}: cannot read it: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Only a module can be built into an image.
    #[error("{}: it is not WebAssembly: `wherry image convert` takes images and artifacts", .0.display())]
    NotModule(PathBuf),
    /// A module is not an image.
    #[error("{}: it is WebAssembly, not an image: `wherry image build` makes one", .0.display())]
    NotImage(PathBuf),
    /// An image without a name cannot be stored.
    #[error("the image has no name: --tag gives it one")]
    NoName,
    /// The time in the environment is malformed.
    #[error("SOURCE_DATE_EPOCH is {0:?}: expected a number of seconds since 1970")]
    Epoch(String),
    /// No engine is installed.
    #[error(
        "no engine that compiles is installed beside wherry or in PATH: expected wherry-ENGINE"
    )]
    NoEngine,
    /// The image's module could not be compiled.
    #[error("the image is stored, but its module is not compiled: {0}")]
    NotCompiled(String),
    /// A temporary file cannot be written.
    #[error("cannot write a temporary file: {0}")]
    Temporary(#[source] io::Error),
    /// Manual pages cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Man {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),
}

impl Error {
    /// For `map_err`: the image or file at fault.
    pub(crate) fn of(name: impl Into<String>) -> impl FnOnce(OciError) -> Error {
        let name = name.into();
        move |source| match source {
            // These texts begin with a name.
            OciError::Registry { .. } | OciError::Layout { .. } | OciError::File { .. } => {
                Error::Named(source)
            }
            source => Error::Image { name, source },
        }
    }
}
