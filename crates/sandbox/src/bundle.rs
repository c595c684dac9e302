//! A bundle: the directory with a container's `config.json`, and what we keep in it.
//!
//! All that we know of a container on disk lies in its bundle, so that nothing is left when
//! containerd removes it, and so that it can be cleaned up from there when its daemon is dead.

use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::config::Config;

/// A bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    path: PathBuf,
    id: String,
}

/// Why a configuration cannot be used: one sentence, with the file's path and the field at fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {cause}", .path.display())]
pub struct BundleError {
    path: PathBuf,
    cause: String,
}

/// The cgroup that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupName {
    /// The name, as libcontainer understands it.
    pub path: PathBuf,
    /// Whether systemd manages it.
    pub systemd: bool,
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

    /// Reads all of `config.json`.
    ///
    /// # Errors
    /// When it is missing or is no OCI runtime configuration; the text names the field.
    pub fn spec(&self) -> Result<Spec, BundleError> {
        self.read()
    }

    /// Reads what the daemon needs of `config.json`.
    ///
    /// # Errors
    /// As [`Bundle::spec`].
    pub fn config(&self) -> Result<Config, BundleError> {
        self.read()
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, BundleError> {
        let path = self.path.join("config.json");
        let failed = |cause: String| BundleError { path: path.clone(), cause };
        let bytes = fs::read(&path).map_err(|error| failed(error.to_string()))?;
        parse(&bytes).map_err(failed)
    }

    /// Where Create mounts the root filesystem that it is given. A configuration may name another
    /// one, which is then somebody else's to mount and unmount, as Docker's is.
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

    /// Whether a container was made from this bundle, or was begun with.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.state_root().exists()
    }

    /// Where libcontainer keeps its records of the container.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state_root().join(&self.id)
    }

    /// The lock of [`crate::making`].
    pub(crate) fn making(&self) -> PathBuf {
        self.path.join("wherry.making")
    }

    /// The cgroup that the configuration names. `systemd`: a client has said that systemd manages it; Docker
    /// says so by the form of the name alone.
    ///
    /// # Errors
    /// A sentence, when the name leads out of the hierarchy.
    pub fn cgroup(&self, config: &Config, systemd: bool) -> Result<CgroupName, String> {
        let Some(path) = config.linux.as_ref().and_then(|linux| linux.cgroups_path.clone()) else {
            // What libcontainer takes then; with systemd's driver it is a name of systemd's form, too.
            return Ok(CgroupName { path: format!(":youki:{}", self.id).into(), systemd });
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("linux.cgroupsPath is {path:?}: it may not hold \"..\""));
        }
        if !path.components().any(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("linux.cgroupsPath is {path:?}: it names no cgroup"));
        }
        Ok(CgroupName { systemd: systemd || cgroup::is_systemd_path(&path), path })
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

/// Reads the JSON of a configuration. The error names the field.
///
/// # Errors
/// What is wrong, and where.
pub fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        let cause = error.into_inner();
        if place == "." { cause.to_string() } else { format!("{place}: {cause}") }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |text: &str| parse::<Spec>(text.as_bytes()).unwrap_err();
        assert!(error(r#"{"process": {"user": {"uid": -1}}}"#).starts_with("process.user.uid: "));
        assert!(error(r#"{"mounts": [{"type": "x"}]}"#).contains("mounts[0]: missing field"));
        assert!(error("{").contains("line 1"));
        assert!(error("{} x").contains("trailing"));
    }

    #[test]
    fn a_cgroup_stays_in_its_hierarchy() {
        let bundle = Bundle::new(Path::new("/b"), "x");
        let name = |json: &str| {
            let linux = Some(serde_json::from_str(json).unwrap());
            bundle.cgroup(&Config { linux, ..Config::default() }, false)
        };
        let cgroup = |path: &str, systemd| Ok(CgroupName { path: path.into(), systemd });
        assert_eq!(name(r#"{"cgroupsPath": "/a/b"}"#), cgroup("/a/b", false));
        assert_eq!(name(r#"{"cgroupsPath": "a.slice:b:c"}"#), cgroup("a.slice:b:c", true));
        assert_eq!(name("{}"), cgroup(":youki:x", false));
        assert!(name(r#"{"cgroupsPath": "/"}"#).unwrap_err().contains("no cgroup"));
        assert!(name(r#"{"cgroupsPath": ""}"#).unwrap_err().contains("no cgroup"));
        assert!(name(r#"{"cgroupsPath": "/a/../../etc"}"#).unwrap_err().contains("/a/../../etc"));
    }
}
