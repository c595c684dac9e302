//! Which daemon serves a container, and on which socket.
//!
//! All containers of a pod share a daemon; every other container has its own. The socket's name is
//! a digest of all that distinguishes two daemons, because the path of a socket has at most 107
//! bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The annotations that name a group, in order of precedence.
pub(crate) const ANNOTATIONS: [&str; 2] =
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The directory of sockets, if containerd names no other. The paths of containerd's own shims are
/// there too.
const SOCKETS: &str = "/run/containerd/s";

/// The only part of a configuration that `start` parses: parsing all of it would take longer than
/// the rest of `start`.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// Returns the group of the container in a bundle: its id, unless an annotation names another. A
/// bundle without a configuration is that of a pod sandbox, whose id names the group of its
/// containers.
///
/// # Errors
/// [`Error::Read`], [`Error::Parse`].
pub fn of(bundle: &Path, id: &str) -> Result<String> {
    let path = bundle.join("config.json");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let spec: Annotated = serde_json::from_reader(BufReader::new(file))
        .map_err(|source| Error::Parse { path, source })?;
    let annotations = spec.annotations.unwrap_or_default();
    let group = ANNOTATIONS.iter().find_map(|name| annotations.get(*name));
    Ok(group.map_or(id, String::as_str).to_owned())
}

/// All that distinguishes two daemons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) engine: &'a str,
    /// containerd's gRPC socket.
    pub(crate) address: &'a str,
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    pub(crate) group: &'a str,
}

/// Returns the path of a daemon's socket, in `directory` or the default directory.
pub(crate) fn socket(directory: Option<&Path>, key: Key<'_>) -> PathBuf {
    let mut hasher = Sha256::new();
    for part in [key.engine, key.address, key.namespace, key.group] {
        hasher.update(part);
        // A separator that no part contains: `a` and `bc` differ from `ab` and `c`.
        hasher.update([0]);
    }
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    directory.unwrap_or(Path::new(SOCKETS)).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(config: &str) -> Result<String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        of(directory.path(), "own")
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
        assert_eq!(of(directory.path(), "pod").unwrap(), "pod");
    }

    #[test]
    fn sockets_differ_where_daemons_do() {
        let key = Key { engine: "e", address: "/a", namespace: "n", group: "g" };
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
