//! A bundle: the directory with a container's `config.json`, and what we keep in it.
//!
//! All that we know of a container on disk lies in its bundle, so that nothing is left when
//! containerd removes it, and so that it can be cleaned up from there when its daemon is dead.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::Spec;

/// A bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    path: PathBuf,
    id: String,
}

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", .path.display())]
pub struct BundleError {
    path: PathBuf,
    source: OciSpecError,
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

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it is missing or is no OCI runtime configuration; the text says where in the file.
    pub fn spec(&self) -> Result<Spec, BundleError> {
        let path = self.path.join("config.json");
        Spec::load(&path).map_err(|source| BundleError { path, source })
    }

    /// Where Create mounts the root filesystem that it is given. A configuration may name another
    /// one, which is then somebody else's to mount and unmount, as Docker's is.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The root filesystem that the configuration names.
    #[must_use]
    pub fn root(&self, spec: &Spec) -> PathBuf {
        let root = spec.root().as_ref().map(|root| root.path().as_path());
        self.path.join(root.unwrap_or(Path::new("rootfs")))
    }

    /// The directory for libcontainer's records: one of our own, since libcontainer makes another
    /// below it that is named like the container, and a container may be called `rootfs`.
    #[must_use]
    pub fn state_root(&self) -> PathBuf {
        self.path.join("wherry")
    }

    /// Where an image's layers are mounted for a moment, while the root filesystem is made of them.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.state_root().join("@layers")
    }

    /// What libcontainer reads in place of the bundle when the configuration is not for it as it
    /// is; in a directory that is named like no container.
    #[must_use]
    pub fn adapted(&self) -> PathBuf {
        self.state_root().join("@adapted")
    }

    /// Where libcontainer keeps its records of the container.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state_root().join(&self.id)
    }

    /// The cgroup that the configuration names, as libcontainer understands it.
    #[must_use]
    pub fn cgroup_path(&self, spec: &Spec) -> PathBuf {
        match spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()) {
            Some(path) => path,
            None => PathBuf::from(format!(":youki:{}", self.id)),
        }
    }

    /// Removes what libcontainer left in the bundle. What is already gone is no error.
    pub fn remove_state(&self) {
        if let Err(error) = fs::remove_dir_all(self.state_root())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", self.state_root().display());
        }
    }
}
