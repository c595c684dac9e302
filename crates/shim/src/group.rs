//! Which daemon serves a container, and on which socket.
//!
//! By default all containers of a pod share a daemon, and every other container has its own. In the
//! shared mode one daemon, the manager, serves all containers of a containerd's namespace. The
//! socket's name is a digest of all that distinguishes two daemons, because the path of a socket
//! has at most 107 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use wherry_bundle::SANDBOX_ID;

use crate::error::{Error, Result};

/// Which containers share a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Those of a group: the runtime `io.containerd.E.v1`.
    Group,
    /// All of one containerd and namespace: the runtime `io.containerd.Ed.v1`.
    Manager,
}

impl Sharing {
    /// The name of the runtime of an engine, as in `io.containerd.<name>.v1`.
    #[must_use]
    pub fn runtime(self, engine: &str) -> String {
        match self {
            Sharing::Group => engine.to_owned(),
            Sharing::Manager => format!("{engine}d"),
        }
    }

    /// Returns the group of the container in a bundle. That of a manager has no name, as no other
    /// group.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Parse`].
    pub(crate) fn group(self, bundle: &Path, id: &str) -> Result<Group> {
        match self {
            Sharing::Group => of(bundle, id),
            Sharing::Manager => Ok(Group::default()),
        }
    }
}

/// The annotations that name a group, in order of precedence.
pub(crate) const ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", SANDBOX_ID];

/// The directory of sockets, if containerd names no other. The paths of containerd's own shims are
/// there too.
const SOCKETS: &str = "/run/containerd/s";

/// The directory of the managers' control sockets.
pub const CONTROL_SOCKETS: &str = "/run/wherry-manager";

/// The only fields of a configuration that `start` parses: parsing all of it would take longer than
/// the rest of `start`.
#[derive(Deserialize)]
struct Annotated {
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(rename = "cgroupsPath")]
    cgroups_path: Option<PathBuf>,
}

/// The group of a container, and what else `start` needs of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// Whether the bundle is that of a pod sandbox, which needs no engine host.
    pub is_pod: bool,
    /// Whether the path of the container's cgroup has the form of systemd's driver.
    pub by_systemd: bool,
    /// The annotations.
    pub annotations: HashMap<String, String>,
}

/// Returns the group of the container in a bundle. Its name is the container's id, unless an
/// annotation names another. A bundle without a configuration is that of a pod sandbox, whose id
/// names the group of its containers.
///
/// # Errors
/// [`Error::Read`], [`Error::Parse`].
pub fn of(bundle: &Path, id: &str) -> Result<Group> {
    let path = bundle.join("config.json");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Group { name: id.to_owned(), is_pod: true, ..Group::default() });
        }
        Err(source) => return Err(Error::Read { path, source }),
    };
    let spec: Annotated = serde_json::from_reader(BufReader::new(file))
        .map_err(|source| Error::Parse { path, source })?;
    let annotations = spec.annotations.unwrap_or_default();
    let group = ANNOTATIONS.iter().find_map(|name| annotations.get(*name));
    let cgroup = spec.linux.and_then(|linux| linux.cgroups_path);
    Ok(Group {
        name: group.map_or(id, String::as_str).to_owned(),
        is_pod: false,
        by_systemd: cgroup.is_some_and(|path| wherry_cgroup::is_systemd_path(&path)),
        annotations,
    })
}

/// All that distinguishes two daemons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    /// The runtime, as in `io.containerd.<name>.v1`.
    pub(crate) runtime: &'a str,
    /// containerd's gRPC socket.
    pub(crate) address: &'a str,
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    pub(crate) group: &'a str,
}

/// Returns the path of a daemon's socket, in `directory` or the default directory.
pub(crate) fn socket(directory: Option<&Path>, key: Key<'_>) -> PathBuf {
    let mut hasher = Sha256::new();
    for part in [key.runtime, key.address, key.namespace, key.group] {
        hasher.update(part);
        // A separator that no part contains: `a` and `bc` differ from `ab` and `c`.
        hasher.update([0]);
    }
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    directory.unwrap_or(Path::new(SOCKETS)).join(name)
}

/// Returns the path of the control socket of the manager that serves at `socket`.
#[must_use]
pub fn control_socket(socket: &Path) -> PathBuf {
    Path::new(CONTROL_SOCKETS).join(socket.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(config: &str) -> Result<String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        of(directory.path(), "own").map(|group| group.name)
    }

    #[test]
    fn the_driver_is_read_with_the_group() {
        let by_systemd = |config: &str| {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("config.json"), config).unwrap();
            of(directory.path(), "own").unwrap().by_systemd
        };
        assert!(by_systemd(r#"{"linux":{"cgroupsPath":"system.slice:docker:x","seccomp":{}}}"#));
        assert!(!by_systemd(r#"{"linux":{"cgroupsPath":"/docker/x"}}"#));
        assert!(!by_systemd(r#"{"linux":{}}"#) && !by_systemd(r#"{"linux":null}"#));
        assert!(!by_systemd("{}"));
    }

    #[test]
    fn a_pod_is_a_group() {
        assert_eq!(group("{}").unwrap(), "own");
        assert_eq!(group(r#"{"annotations":null}"#).unwrap(), "own");
        assert_eq!(
            group(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"},"x":1}"#).unwrap(),
            "pod"
        );
        assert_eq!(
            group(
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"p","io.containerd.runc.v2.group":"g"}}"#
            )
            .unwrap(),
            "g"
        );
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_named() {
        assert!(group("{").unwrap_err().to_string().contains("config.json"));
        let invalid = of(Path::new("/dev/null"), "x").unwrap_err().to_string();
        assert!(invalid.starts_with("cannot read /dev/null/config.json: "), "{invalid}");
    }

    #[test]
    fn a_pod_sandbox_without_a_configuration_is_its_own_group() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(of(directory.path(), "pod").unwrap().name, "pod");
    }

    #[test]
    fn all_containers_of_a_manager_are_in_its_group_whatever_their_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let group = Group::default();
        assert_eq!(Sharing::Manager.group(directory.path(), "one").unwrap(), group);
        let config = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        assert_eq!(Sharing::Manager.group(directory.path(), "other").unwrap(), group);
        assert_eq!(Sharing::Group.group(directory.path(), "other").unwrap().name, "pod");
        assert_eq!(Sharing::Manager.runtime("e"), "ed");
    }

    #[test]
    fn sockets_differ_where_daemons_do() {
        let key = Key { runtime: "e", address: "/a", namespace: "n", group: "g" };
        let one = socket(None, key);
        assert_ne!(one, socket(None, Key { namespace: "m", ..key }));
        assert_ne!(one, socket(None, Key { group: "h", ..key }));
        assert_eq!(one, socket(None, key));
        assert!(one.as_os_str().len() < 107);
        let other = socket(Some(Path::new("/run/x")), key);
        assert_eq!(
            (other.parent(), other.file_name()),
            (Some(Path::new("/run/x")), one.file_name())
        );
    }
}
