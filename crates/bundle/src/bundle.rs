//! The paths of a bundle, and its configuration.
//!
//! Everything that Wherry keeps of a container on disk lies in its bundle: it goes when containerd
//! removes the bundle, and cleanup needs nothing else when the daemon is dead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::json::{ParseError, parse};

/// A bundle and the id of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    path: PathBuf,
    id: String,
}

/// Why a bundle's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not an OCI runtime configuration.
    #[error("cannot read {}: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The field at fault.
        source: ParseError,
    },
}

impl Bundle {
    /// The bundle at `path` of the container `id`.
    #[must_use]
    pub fn new(path: &Path, id: &str) -> Bundle {
        Bundle { path: path.to_owned(), id: id.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Parses all of `config.json`.
    ///
    /// # Errors
    /// If it is missing or invalid; the text names the field.
    pub fn spec(&self) -> Result<Spec, BundleError> {
        self.read()
    }

    /// Parses what the daemon needs of `config.json`.
    ///
    /// # Errors
    /// As [`Bundle::spec`].
    pub fn config(&self) -> Result<Config, BundleError> {
        self.read()
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, BundleError> {
        let path = self.path.join("config.json");
        let bytes =
            fs::read(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
        parse(&bytes).map_err(|source| BundleError::Parse { path, source })
    }

    /// The directory where Create mounts the root filesystem that it was given. A configuration may
    /// name another directory; its owner mounts and unmounts that one, as Docker does.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The root filesystem that the configuration names.
    #[must_use]
    pub fn root(&self, config: &Config) -> PathBuf {
        let root = config.root.as_ref().map(|root| root.path.as_path());
        self.path.join(root.unwrap_or(Path::new("rootfs")))
    }

    /// The directory above libcontainer's state directory. libcontainer names its directory after
    /// the container, which may be called `rootfs`, so it cannot lie in the bundle itself.
    #[must_use]
    pub fn state_root(&self) -> PathBuf {
        self.path.join("wherry")
    }

    /// The mount point for an image's layers while the root filesystem is set up.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.state_root().join("@layers")
    }

    /// The directory of the rewritten configuration, which libcontainer reads instead of the
    /// bundle's. No container id contains `@`.
    #[must_use]
    pub fn rewritten(&self) -> PathBuf {
        self.state_root().join("@rewritten")
    }

    /// The directory of the files that all containers of a pod share, in the bundle of the pod.
    #[must_use]
    pub fn pod_files(&self) -> PathBuf {
        self.state_root().join("@pod")
    }

    /// The directory with an entry for each container of the pod.
    #[must_use]
    pub fn pod_members(&self) -> PathBuf {
        self.state_root().join("@containers")
    }

    /// The entry of the container `id` of the pod.
    #[must_use]
    pub fn pod_member(&self, id: &str) -> PathBuf {
        self.pod_members().join(id)
    }

    /// The mount point of the pod's `/dev/shm`.
    #[must_use]
    pub fn pod_shm(&self) -> PathBuf {
        self.pod_files().join("shm")
    }

    /// Whether this is the bundle of a pod that was created, not that of a container.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.pod_files().exists()
    }

    /// Whether Create has started to use this bundle.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.state_root().exists()
    }

    /// libcontainer's state directory of the container.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state_root().join(&self.id)
    }

    /// The socket on which libcontainer's first process waits for Start.
    #[must_use]
    pub fn start_socket(&self) -> PathBuf {
        self.state().join(START_SOCKET)
    }

    /// The lock of [`crate::setup_lock`].
    pub(crate) fn setup_lock(&self) -> PathBuf {
        self.path.join("wherry.lock")
    }

    /// Removes the state directory. Logs a warning if that fails.
    pub fn remove_state(&self) {
        if let Err(error) = fs::remove_dir_all(self.state_root())
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", self.state_root().display());
        }
    }
}

/// `libcontainer::notify_socket::NOTIFY_FILE`; a test of the engine host compares the two. The
/// daemon does not link libcontainer.
pub const START_SOCKET: &str = "notify.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_configuration_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        let path = directory.path().join("config.json");
        let text = bundle.config().unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot read {}: No such file", path.display())));
        fs::write(&path, r#"{"process": {"cwd": 3}}"#).unwrap();
        let text = bundle.config().unwrap_err().to_string();
        let expected = format!("cannot read {}: process.cwd: ", path.display());
        assert!(text.starts_with(&expected), "{text}");
        assert!(bundle.spec().is_err());
    }

    #[test]
    fn the_root_is_relative_to_the_bundle_unless_it_is_absolute() {
        let bundle = Bundle::new(Path::new("/b"), "x");
        let root = |json: &str| bundle.root(&parse(json.as_bytes()).unwrap());
        assert_eq!(root("{}"), Path::new("/b/rootfs"));
        assert_eq!(root(r#"{"root": {"path": "fs"}}"#), Path::new("/b/fs"));
        assert_eq!(root(r#"{"root": {"path": "/other"}}"#), Path::new("/other"));
        assert_eq!(bundle.rootfs(), Path::new("/b/rootfs"));
    }

    #[test]
    fn state_is_removed_once_and_its_absence_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        assert!(!bundle.is_used());
        fs::create_dir_all(bundle.state()).unwrap();
        fs::write(bundle.start_socket(), "").unwrap();
        assert!(bundle.is_used());
        bundle.remove_state();
        assert!(!bundle.is_used());
        bundle.remove_state();
    }

    #[test]
    fn no_container_id_names_a_directory_of_ours() {
        // Ids have letters, digits, '-', '_' and '.'.
        let bundle = Bundle::new(Path::new("/b"), "x");
        for ours in [bundle.layers(), bundle.rewritten()] {
            assert!(ours.file_name().unwrap().to_str().unwrap().starts_with('@'));
        }
    }
}
