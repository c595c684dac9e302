//! Which daemon serves a container, and on which socket.
//!
//! All containers of a pod have one daemon, every other container one of its own. The socket's
//! name is a digest of everything that tells two daemons apart: a path of at most 107 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Shim;
use crate::args::Args;

/// The annotations that name a group, the first that is there counts.
const ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Where containerd's shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// All that is read of a configuration here: the whole would take longer than the rest of start.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// The group of the container whose bundle this is: its own id when it says no other.
///
/// # Errors
/// A sentence, when the configuration cannot be read.
pub fn of(bundle: &Path, id: &str) -> Result<String, String> {
    let path = bundle.join("config.json");
    let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let file = File::open(&path).map_err(|error| failed(&error))?;
    let spec: Annotated =
        serde_json::from_reader(BufReader::new(file)).map_err(|error| failed(&error))?;
    let annotations = spec.annotations.unwrap_or_default();
    let group = ANNOTATIONS.iter().find_map(|name| annotations.get(*name));
    Ok(group.map_or(id, String::as_str).to_owned())
}

/// The socket of a group's daemon.
pub(crate) fn socket(shim: Shim, args: &Args, group: &str) -> PathBuf {
    let mut hasher = Sha256::new();
    for part in [shim.engine, &args.address, &args.namespace, group] {
        hasher.update(part);
        // A byte that is in no part: `a` and `bc` are not `ab` and `c`.
        hasher.update([0]);
    }
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(config: &str) -> Result<String, String> {
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
        assert!(group("{").unwrap_err().contains("config.json"));
        let missing = of(Path::new("/nowhere"), "x").unwrap_err();
        assert!(missing.starts_with("cannot read /nowhere/config.json: "), "{missing}");
    }

    #[test]
    fn sockets_differ_where_daemons_do() {
        let shim = Shim { engine: "e" };
        let line = |namespace: &str| {
            let args = format!("-namespace {namespace} -id x -address /a start");
            Args::parse(args.split_whitespace().map(str::to_owned)).unwrap()
        };
        let one = socket(shim, &line("a"), "g");
        assert_ne!(one, socket(shim, &line("b"), "g"));
        assert_ne!(one, socket(shim, &line("a"), "h"));
        assert_eq!(one, socket(shim, &line("a"), "g"));
        assert!(one.as_os_str().len() < 107);
    }
}
