//! The fields of a configuration that the daemon acts on.
//!
//! The engine host parses all of `config.json` and validates it. A machine has as many daemons as
//! containers, so the daemon parses only the fields that it uses.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use serde::Deserialize;

/// The annotation of containerd's CRI plug-in that names the pod sandbox of a container.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// The fields of a configuration that the daemon acts on, with the names of the runtime
/// specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The version of the specification.
    #[serde(default)]
    pub oci_version: String,
    /// Annotations of the client.
    pub annotations: Option<HashMap<String, String>>,
    /// The first process.
    pub process: Option<Process>,
    /// The root filesystem.
    pub root: Option<Root>,
    /// The hooks.
    pub hooks: Option<Hooks>,
    /// The fields for Linux.
    pub linux: Option<Linux>,
}

/// A process.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Process {
    /// The environment.
    pub env: Option<Vec<String>>,
    /// The working directory.
    #[serde(default)]
    pub cwd: PathBuf,
}

/// A root filesystem.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Root {
    /// The path, absolute or relative to the bundle.
    #[serde(default)]
    pub path: PathBuf,
}

/// The fields for Linux.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// The path of the cgroup.
    pub cgroups_path: Option<PathBuf>,
    /// The cgroup's limits.
    pub resources: Option<LinuxResources>,
    /// The namespaces that are not those of the daemon.
    pub namespaces: Option<Vec<LinuxNamespace>>,
}

impl Config {
    /// The working directory.
    #[must_use]
    pub fn cwd(&self) -> PathBuf {
        self.process.as_ref().map(|process| process.cwd.clone()).unwrap_or_default()
    }

    /// The path of the cgroup.
    #[must_use]
    pub fn cgroups_path(&self) -> Option<PathBuf> {
        self.linux.as_ref()?.cgroups_path.clone()
    }

    /// The cgroup's limits.
    #[must_use]
    pub fn resources(&self) -> Option<&LinuxResources> {
        self.linux.as_ref()?.resources.as_ref()
    }

    /// Whether the container gets a new network namespace that belongs to the daemon's user
    /// namespace.
    #[must_use]
    pub fn has_new_network(&self) -> bool {
        let namespaces = self.linux.iter().flat_map(|linux| linux.namespaces.iter().flatten());
        let mut new_network = false;
        for namespace in namespaces {
            match namespace.typ() {
                LinuxNamespaceType::User => return false,
                LinuxNamespaceType::Network => new_network = namespace.path().is_none(),
                _ => {}
            }
        }
        new_network
    }

    /// The memory limit, bytes.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        let limit = self.resources()?.memory().as_ref()?.limit()?;
        // -1 means unlimited.
        u64::try_from(limit).ok().filter(|limit| *limit > 0)
    }
}

impl From<&Spec> for Config {
    fn from(spec: &Spec) -> Config {
        Config {
            oci_version: spec.version().clone(),
            annotations: spec.annotations().clone(),
            process: spec
                .process()
                .as_ref()
                .map(|process| Process { env: process.env().clone(), cwd: process.cwd().clone() }),
            root: spec.root().as_ref().map(|root| Root { path: root.path().clone() }),
            hooks: spec.hooks().clone(),
            linux: spec.linux().as_ref().map(|linux| Linux {
                cgroups_path: linux.cgroups_path().clone(),
                resources: linux.resources().clone(),
                namespaces: linux.namespaces().clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_memory_is_what_the_configuration_says() {
        let limit = |resources: &str| {
            let text = format!(r#"{{"linux": {{"resources": {resources}}}}}"#);
            crate::parse::<Config>(text.as_bytes()).unwrap().memory_limit()
        };
        assert_eq!(limit(r#"{"memory": {"limit": 33554432}}"#), Some(32 << 20));
        assert_eq!(limit(r#"{"memory": {"limit": -1}}"#), None);
        assert_eq!(limit("{}"), None);
    }

    #[test]
    fn the_daemon_and_the_host_see_the_same_configuration() {
        let text = r#"{
            "ociVersion": "1.2.1", "annotations": {"a": "b"},
            "process": {"cwd": "/work", "env": ["A=1"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "fs"},
            "hooks": {"poststop": [{"path": "/bin/true"}]},
            "linux": {
                "cgroupsPath": "/a/b", "resources": {"memory": {"limit": 4096}},
                "namespaces": [{"type": "network"}, {"type": "ipc", "path": "/proc/7/ns/ipc"}]
            }
        }"#;
        let config: Config = crate::parse(text.as_bytes()).unwrap();
        let spec: Spec = crate::parse(text.as_bytes()).unwrap();
        let from_spec = Config::from(&spec);
        assert_eq!(format!("{config:?}"), format!("{from_spec:?}"));
        assert_eq!(config.cwd(), PathBuf::from("/work"));
        assert_eq!(config.cgroups_path(), Some(PathBuf::from("/a/b")));
        assert_eq!(config.memory_limit(), Some(4096));
    }

    #[test]
    fn a_new_network_namespace_has_neither_a_path_nor_a_user_namespace() {
        let is_new = |namespaces: &str| {
            let text = format!(r#"{{"linux": {{"namespaces": [{namespaces}]}}}}"#);
            crate::parse::<Config>(text.as_bytes()).unwrap().has_new_network()
        };
        assert!(is_new(r#"{"type": "mount"}, {"type": "network"}, {"type": "ipc"}"#));
        assert!(!is_new(r#"{"type": "mount"}"#));
        assert!(!is_new(r#"{"type": "network", "path": "/run/netns/a"}"#));
        assert!(!is_new(r#"{"type": "network"}, {"type": "user"}"#));
    }

    #[test]
    fn an_empty_configuration_has_no_values() {
        let config: Config = crate::parse(b"{}").unwrap();
        assert_eq!(config.cwd(), PathBuf::new());
        assert!(config.resources().is_none() && config.cgroups_path().is_none());
    }
}
