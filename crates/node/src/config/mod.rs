//! Changes of containerd's configuration: pure functions from text to text.
//!
//! - [`document`] edits a TOML file; [`template`] edits a Go template that becomes one (k3s, rke2);
//! - [`effective`] compares containerd's effective configuration before and after a change.

pub(crate) mod document;
pub(crate) mod effective;
pub(crate) mod template;

use std::path::Path;

use crate::executables;

/// The comment before each addition, in both kinds of file.
pub(crate) const COMMENT: &str = "# Added by wherry-node; `wherry-node uninstall` removes it.";

/// Why a configuration cannot be changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// Not TOML.
    #[error("invalid TOML: {0}")]
    Invalid(String),
    /// A file without `version` is in version 1 of the format.
    #[error(
        "version 1 of the configuration format is not supported, and a file without `version` has it: \
         write the file in version 2 (`containerd config migrate` of containerd 1.7 or newer does it), then run this again"
    )]
    Version1,
    /// A version that this containerd cannot read.
    #[error(
        "version {found} of the configuration format, but containerd {containerd} reads at most version {max}"
    )]
    TooNew { found: i64, containerd: String, max: i64 },
    /// A value has the name of a table.
    #[error("{0} is not a table")]
    NotATable(String),
    /// The edited text would change something besides the runtimes.
    #[error(
        "the runtimes cannot be added without changing other settings; add them by hand, docs/kubernetes.md shows how"
    )]
    Lossy,
}

/// The version of the configuration format, which determines the place of the CRI plug-in's
/// runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `version = 2`: containerd 1.x, and 2.x, which converts it.
    V2,
    /// `version = 3` and, with the same plug-in names, `version = 4`: containerd 2.x.
    V3,
}

impl Format {
    /// The format of a version number.
    pub(crate) fn of(version: i64) -> Format {
        if version <= 2 { Format::V2 } else { Format::V3 }
    }

    /// The version number that a new file gets.
    pub(crate) fn version(self) -> i64 {
        match self {
            Format::V2 => 2,
            Format::V3 => 3,
        }
    }

    /// The plug-in whose table holds the runtimes.
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Format::V2 => "io.containerd.grpc.v1.cri",
            Format::V3 => "io.containerd.cri.v1.runtime",
        }
    }

    /// The names of the tables around a runtime's.
    pub(crate) fn path(self) -> [&'static str; 4] {
        ["plugins", self.plugin(), "containerd", "runtimes"]
    }
}

/// The version of a containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    /// Parses a version such as `1.7.24~ds1` or `v2.1.4-k3s1`.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.trim().trim_start_matches('v').split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
        Some(Version { major, minor: minor.parse().ok()? })
    }

    /// The highest version of the configuration format that it reads.
    pub(crate) fn format_max(self) -> i64 {
        match self {
            v if v < Version::new(2, 0) => 2,
            v if v < Version::new(2, 3) => 3,
            _ => i64::MAX,
        }
    }

    /// The format of a new file.
    pub(crate) fn format(self) -> Format {
        if self < Version::new(2, 0) { Format::V2 } else { Format::V3 }
    }

    /// Whether it queries the features, and so the support of user namespaces, only of runtimes of
    /// type `io.containerd.runc.v2`. 1.x queries none.
    pub(crate) fn asks_only_runc(self) -> bool {
        (Version::new(2, 0)..Version::new(2, 4)).contains(&self)
    }
}

impl Version {
    /// Whether a shim can create pods. 2.0 to 2.2 crash when a pod has the host's network, and
    /// refuse the options of a runtime other than runc.
    pub(crate) fn lets_shims_make_pods(self) -> bool {
        self >= Version::new(2, 3)
    }

    /// Whether it has the key `disable_pause_image_pull`.
    fn has_pause_image_key(self) -> bool {
        self >= Version::new(2, 4)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The creator of a runtime's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sandboxer {
    /// containerd, with a pause container.
    Podsandbox,
    /// The shim, without one.
    Shim,
}

/// The annotations that name the engine of a container. A pattern's `*` matches no slash.
const ANNOTATIONS: [&str; 3] = ["wherry.engine", "wherry.engine/*", "run.oci.handler"];
/// The keys under which containerd has them.
pub(crate) const ANNOTATION_KEYS: [&str; 2] = ["pod_annotations", "container_annotations"];

/// A runtime, as containerd's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Its name in the configuration: the handler of a RuntimeClass.
    pub(crate) handler: String,
    pub(crate) runtime_type: String,
    pub(crate) runtime_path: Option<String>,
    pub(crate) systemd_cgroup: bool,
    pub(crate) sandboxer: Sandboxer,
    /// The annotations of pods and containers that containerd passes to the shim.
    pub(crate) annotations: &'static [&'static str],
    /// Whether containerd should not pull a pause image for it: `disable_pause_image_pull`.
    pub(crate) without_pause_image: bool,
}

impl Runtime {
    /// The value of the key `sandboxer`, which containerd before 2.0 does not have.
    pub(crate) fn sandboxer_key(&self) -> Option<&'static str> {
        match self.sandboxer {
            Sandboxer::Podsandbox => None,
            Sandboxer::Shim => Some("shim"),
        }
    }

    /// The runtime of an engine whose shim is in `bin_dir`, for a containerd of this version.
    ///
    /// With `hostUsers: false` containerd < 2.4 refuses a pod unless the handler's features say
    /// that it supports user namespaces, and it queries only runtimes of type
    /// `io.containerd.runc.v2`. It executes `runtime_path` in any case. Where the shim creates the
    /// pods, containerd does not use that key, and `runtime_type` may be a path.
    pub(crate) fn new(
        engine: &str,
        bin_dir: &Path,
        in_path: bool,
        version: Version,
        systemd_cgroup: bool,
        sandboxer: Sandboxer,
    ) -> Runtime {
        let shim = bin_dir.join(format!("containerd-shim-{engine}-v1")).display().to_string();
        let own = format!("io.containerd.{engine}.v1");
        let shim_makes_pods = sandboxer == Sandboxer::Shim;
        let (runtime_type, runtime_path) = if shim_makes_pods {
            (if in_path { own } else { shim }, None)
        } else if version.asks_only_runc() {
            ("io.containerd.runc.v2".to_owned(), Some(shim))
        } else if in_path {
            (own, None)
        } else if version < Version::new(1, 7) {
            // 1.6 has the key `runtime_path` and does not use it for a pod's first container.
            (shim, None)
        } else {
            (own, Some(shim))
        };
        let without_pause_image = shim_makes_pods && version.has_pause_image_key();
        let handler = engine.to_owned();
        let annotations: &[&str] = if engine == executables::ALL { &ANNOTATIONS } else { &[] };
        Runtime {
            handler,
            runtime_type,
            runtime_path,
            systemd_cgroup,
            sandboxer,
            annotations,
            without_pause_image,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        for (text, version) in [
            ("1.6.20~ds1", (1, 6)),
            ("v2.1.4-k3s1", (2, 1)),
            ("2.3", (2, 3)),
            ("1.7.24-0ubuntu1~22.04", (1, 7)),
            ("2.2-rc.1", (2, 2)),
        ] {
            assert_eq!(Version::parse(text), Some(Version::new(version.0, version.1)), "{text}");
        }
        assert_eq!(Version::parse("unknown"), None);
    }

    #[test]
    fn the_form_that_allows_user_namespaces_is_used_where_it_is_needed() {
        let runtime = |version: Version, in_path| {
            let (directory, sandboxer) = (Path::new("/opt/b"), Sandboxer::Podsandbox);
            let runtime = Runtime::new("wamr", directory, in_path, version, true, sandboxer);
            (runtime.runtime_type, runtime.runtime_path)
        };
        let (own, path) = ("io.containerd.wamr.v1", "/opt/b/containerd-shim-wamr-v1");
        let as_runc = ("io.containerd.runc.v2".to_owned(), Some(path.to_owned()));
        assert_eq!(runtime(Version::new(1, 6), false), (path.to_owned(), None));
        assert_eq!(runtime(Version::new(1, 7), true), (own.to_owned(), None));
        assert_eq!(runtime(Version::new(1, 7), false), (own.to_owned(), Some(path.to_owned())));
        assert_eq!(runtime(Version::new(2, 0), true), as_runc);
        assert_eq!(runtime(Version::new(2, 3), false), as_runc);
        assert_eq!(runtime(Version::new(2, 4), true), (own.to_owned(), None));
    }

    #[test]
    fn a_shim_that_makes_pods_is_found_by_its_type() {
        let runtime = |minor, in_path| {
            let (directory, version) = (Path::new("/opt/b"), Version::new(2, minor));
            let runtime = Runtime::new("wamr", directory, in_path, version, true, Sandboxer::Shim);
            (runtime.runtime_type, runtime.runtime_path, runtime.without_pause_image)
        };
        assert_eq!(runtime(3, true), ("io.containerd.wamr.v1".to_owned(), None, false));
        let path = "/opt/b/containerd-shim-wamr-v1".to_owned();
        assert_eq!(runtime(4, false), (path, None, true));
    }
}
