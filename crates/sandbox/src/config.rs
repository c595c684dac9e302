//! What the daemon itself needs to know of a container's configuration.
//!
//! The engine host reads all of `config.json`, checks it ([`crate::check`]) and carries it out. The daemon, of which
//! a machine has as many as containers, stays small: it reads the few fields that it acts on.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, LinuxResources};
use serde::Deserialize;

/// The fields of a configuration that the daemon acts on; the names are those of the runtime specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The version of the specification.
    #[serde(default)]
    pub oci_version: String,
    /// What a client has noted.
    pub annotations: Option<HashMap<String, String>>,
    /// The first process.
    pub process: Option<Process>,
    /// The root filesystem.
    pub root: Option<Root>,
    /// Programs to run on the way.
    pub hooks: Option<Hooks>,
    /// What is Linux's own.
    pub linux: Option<Linux>,
}

/// A process.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Process {
    /// Its environment.
    pub env: Option<Vec<String>>,
    /// Its working directory.
    #[serde(default)]
    pub cwd: PathBuf,
}

/// A root filesystem.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Root {
    /// Where it is: absolute, or in the bundle.
    #[serde(default)]
    pub path: PathBuf,
}

/// What is Linux's own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// The name of the cgroup.
    pub cgroups_path: Option<PathBuf>,
    /// The cgroup's limits.
    pub resources: Option<LinuxResources>,
}

impl Config {
    /// The working directory.
    #[must_use]
    pub fn cwd(&self) -> PathBuf {
        self.process.as_ref().map(|process| process.cwd.clone()).unwrap_or_default()
    }
}
