//! The errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why a cgroup could not be created, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It cannot be created.
    #[error("cannot create cgroup {}: {source}", .path.display())]
    Create {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// This process cannot join it.
    #[error("cannot join cgroup: {}: {source}", .path.display())]
    Join {
        /// The file of the members.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refuses a value.
    #[error("cannot set {} to {value}: {source}", .path.display())]
    Set {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The cause.
        source: io::Error,
    },
    /// The machine does not have the controller of a limit.
    #[error("cannot set {file}: this host has no {controller} controller")]
    NoController {
        /// The file of the limit.
        file: String,
        /// The controller.
        controller: String,
    },
    /// The configuration limits huge pages of an invalid size.
    #[error("invalid huge page size {0:?}: a size is a number and a unit, such as 2MB")]
    HugePageSize(String),
    /// Version 2 has no switch for the OOM killer.
    #[error("cannot disable the OOM killer: cgroup version 2 has no such setting")]
    OomKiller,
    /// Its processes do not end, or its directory cannot be removed.
    #[error("cannot remove cgroup {}: {source}", .path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl CgroupError {
    pub(crate) fn create(path: &Path, source: io::Error) -> CgroupError {
        CgroupError::Create { path: path.to_owned(), source }
    }

    pub(crate) fn no_controller(file: &str, controller: &str) -> CgroupError {
        CgroupError::NoController { file: file.to_owned(), controller: controller.to_owned() }
    }
}
