//! The options of the runtime, which a client sends with Create.
//!
//! A new option is a field here, and the code that acts on it: the options travel as one value from
//! the Task API to the engine host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The options of the runtime, with the key of each in TOML in Pascal case: `SystemdCgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RuntimeOptions {
    /// systemd manages the cgroup.
    pub systemd_cgroup: bool,
    /// Enter the root filesystem with `MS_MOVE` and chroot instead of `pivot_root`, for a root
    /// filesystem on the initial ramfs.
    pub no_pivot_root: bool,
    /// The cgroup that the shim itself joins; empty: none.
    pub shim_cgroup: String,
    /// The owner of the guest's ends of the standard streams if the container's user is root and
    /// this is not 0. Otherwise the container's user owns them.
    pub io_uid: u32,
    /// As `io_uid`, the group.
    pub io_gid: u32,
    /// A file or directory with plug-ins of the engine, loaded outside of the container; empty:
    /// none.
    pub plugins: PathBuf,
    /// Leave out the allow-list of the engine's own seccomp filter. The procfs guard stays.
    pub no_engine_seccomp: bool,
}

/// The keys of [`RuntimeOptions`] in TOML.
pub const KEYS: [&str; 7] =
    ["SystemdCgroup", "NoPivotRoot", "ShimCgroup", "IoUid", "IoGid", "Plugins", "NoEngineSeccomp"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_key() {
        let json = serde_json::to_value(RuntimeOptions::default()).unwrap();
        let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = KEYS.to_vec();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
