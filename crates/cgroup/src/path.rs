//! The path of a container's cgroup: the meaning of `cgroupsPath` in a configuration.
//!
//! It is a path below the root of each hierarchy; or, for systemd's driver, `slice:prefix:name`:
//! the scope `prefix-name.scope` in that slice.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{ROOT, collect, is_unified};

/// systemd's directory of the units that clients asked it to create.
const TRANSIENT_UNITS: &str = "/run/systemd/transient";

/// The cgroup that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupName {
    /// The path, in the form that libcontainer parses.
    pub path: PathBuf,
    /// Whether systemd manages it.
    pub systemd: bool,
}

/// Why a `cgroupsPath` is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It leads out of the hierarchy.
    #[error("linux.cgroupsPath is {0:?}: it must not contain \"..\"")]
    Parent(PathBuf),
    /// It is the root.
    #[error("linux.cgroupsPath is {0:?}: it names no cgroup")]
    Root(PathBuf),
    /// systemd manages the cgroup, and the path is that of another driver.
    #[error(
        "linux.cgroupsPath is {0:?}: with the option SystemdCgroup it must have the form \
         slice:prefix:name"
    )]
    NotSystemd(PathBuf),
}

impl CgroupName {
    /// Parses the `cgroupsPath` of container `id`. `systemd`: the client requires that systemd
    /// manages the cgroup; Docker indicates that by the form of the path only.
    ///
    /// # Errors
    /// If the path leads out of the hierarchy, names none, or is not of the driver's form.
    pub fn parse(path: Option<PathBuf>, id: &str, systemd: bool) -> Result<CgroupName, PathError> {
        let Some(path) = path else {
            // libcontainer's default, which is also valid for systemd's driver.
            return Ok(CgroupName { path: format!(":youki:{id}").into(), systemd });
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(PathError::Parent(path));
        }
        if !path.components().any(|part| matches!(part, Component::Normal(_))) {
            return Err(PathError::Root(path));
        }
        if systemd && Scope::parse(&path).is_none() {
            return Err(PathError::NotSystemd(path));
        }
        Ok(CgroupName { systemd: systemd || is_systemd_path(&path), path })
    }
}

/// A systemd scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Its cgroup, below the root of the hierarchy.
    pub(crate) path: PathBuf,
    /// The name of the unit.
    pub(crate) unit: String,
}

/// The hierarchies of version 1 that a container joins: every controller, and systemd's named
/// hierarchy, by which systemd knows which unit a process belongs to.
const HIERARCHIES: [&str; 13] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "systemd",
];

/// A hierarchy of version 1 that containers join.
#[derive(Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its mount point.
    pub mount: PathBuf,
    /// Its controllers.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// All that are mounted.
    #[must_use]
    pub fn all() -> Vec<Hierarchy> {
        mounts().into_iter().filter_map(Hierarchy::at).collect()
    }

    /// The mount point is named after the controllers.
    fn at(mount: PathBuf) -> Option<Hierarchy> {
        let controllers: Vec<String> =
            mount.file_name()?.to_str()?.split(',').map(str::to_owned).collect();
        let known = controllers.iter().any(|name| HIERARCHIES.contains(&name.as_str()));
        // A directory without a mounted hierarchy does not have this file.
        (known && mount.join("tasks").exists()).then_some(Hierarchy { mount, controllers })
    }

    /// The directory of the cgroup `path` of a configuration.
    #[must_use]
    pub fn directory(&self, path: &Path) -> PathBuf {
        self.mount.join(below_root(path))
    }

    /// The mount point of version 2 beside version 1 (systemd's hybrid mode), if there is one. It
    /// has no controllers.
    #[must_use]
    pub fn hybrid() -> Option<PathBuf> {
        let mount = Path::new(ROOT).join("unified");
        mount.join("cgroup.procs").exists().then_some(mount)
    }
}

/// The mount points of version 1. If two controllers share a hierarchy, one of the names is a
/// symbolic link.
fn mounts() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    hierarchies
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether a `cgroupsPath` has the form of systemd's driver. Docker indicates the driver in no
/// other way.
#[must_use]
pub fn is_systemd_path(path: &Path) -> bool {
    let slice = path.to_str().and_then(|text| text.split_once(':'));
    slice.is_some_and(|(slice, _)| slice.ends_with(".slice")) && Scope::parse(path).is_some()
}

/// The directories of the cgroup `path`, one per hierarchy, whether they exist or not. `systemd`:
/// systemd creates it, which it does on version 2 only.
pub(crate) fn directories(path: &Path, systemd: bool) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if is_unified() {
        let scope = Scope::parse(path).filter(|_| systemd);
        let below = scope.map_or_else(|| below_root(path), |scope| systemd_root().join(scope.path));
        return vec![root.join(below)];
    }
    mounts().into_iter().map(|mount| mount.join(below_root(path))).collect()
}

/// Whether a process is in the cgroup `path`.
#[must_use]
pub fn is_used(name: &CgroupName) -> bool {
    let mut pids = Vec::new();
    for directory in directories(&name.path, name.systemd) {
        collect(&directory, &mut pids);
    }
    !pids.is_empty()
}

impl Scope {
    /// Parses `slice:prefix:name`. An empty slice means systemd's slice for system services.
    pub(crate) fn parse(path: &Path) -> Option<Scope> {
        let mut parts = path.to_str()?.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let slice = expand(if slice.is_empty() { "system.slice" } else { slice })?;
        let unit = if name.ends_with(".slice") {
            name.to_owned()
        } else {
            format!("{prefix}-{name}.scope")
        };
        (!unit.contains('/')).then(|| Scope { path: slice.join(&unit), unit })
    }

    /// Whether systemd has a transient unit of this name: until it is stopped and collected.
    pub(crate) fn exists(unit: &str) -> bool {
        Path::new(TRANSIENT_UNITS).join(unit).exists()
    }
}

/// The path of a slice, whose name contains all slices above it: `a-b.slice` is
/// `a.slice/a-b.slice`.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/'))?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let part = name.get(..end).filter(|part| !part.is_empty() && !part.ends_with('-'))?;
        path.push(format!("{part}.slice"));
    }
    Some(path)
}

/// The cgroup below which systemd keeps its units: the root, unless systemd runs in a container.
/// Its own process is in `init.scope` there.
fn systemd_root() -> PathBuf {
    let groups = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let root = own.and_then(|path| path.strip_suffix("/init.scope")).unwrap_or_default();
    below_root(Path::new(root))
}

/// Makes a path relative to the root: only its normal components, without `..`.
#[must_use]
pub fn below_root(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_shows_in_the_path() {
        assert!(is_systemd_path(Path::new("system.slice:docker:abc")));
        assert!(!is_systemd_path(Path::new("/docker/abc")));
        assert!(!is_systemd_path(Path::new("/a:b:c")));
        assert!(!is_systemd_path(Path::new(":youki:abc")));
    }

    #[test]
    fn a_scope_lies_in_all_the_slices_of_its_slices_name() {
        let path = |text: &str| Scope::parse(Path::new(text)).map(|scope| scope.path);
        assert_eq!(path("system.slice:docker:x"), Some("system.slice/docker-x.scope".into()));
        assert_eq!(
            path("kube-pods-one.slice:cri:x"),
            Some("kube.slice/kube-pods.slice/kube-pods-one.slice/cri-x.scope".into())
        );
        assert_eq!(path("-.slice:a:x"), Some("a-x.scope".into()));
        assert_eq!(path(":a:x"), Some("system.slice/a-x.scope".into()));
        for wrong in
            ["a:b:c", "a--b.slice:c:d", "-a.slice:c:d", ".slice:c:d", "a.slice:c", "x/a.slice:c:d"]
        {
            assert_eq!(path(wrong), None, "{wrong}");
        }
        assert_eq!(path("a.slice:b:../../x"), None);
    }

    #[test]
    fn no_path_leads_out() {
        assert_eq!(below_root(Path::new("/a/../b/./c")), Path::new("a/b/c"));
    }

    #[test]
    fn a_cgroup_stays_in_its_hierarchy() {
        let parse = |path: Option<&str>| CgroupName::parse(path.map(PathBuf::from), "x", false);
        let cgroup = |path: &str, systemd| Ok(CgroupName { path: path.into(), systemd });
        assert_eq!(parse(Some("/a/b")), cgroup("/a/b", false));
        assert_eq!(parse(Some("a.slice:b:c")), cgroup("a.slice:b:c", true));
        assert_eq!(parse(None), cgroup(":youki:x", false));
        let path = PathBuf::from("/a/b");
        let parsed = CgroupName::parse(Some(path.clone()), "x", true);
        assert_eq!(parsed, Err(PathError::NotSystemd(path)));
        for root in ["/", ""] {
            assert_eq!(parse(Some(root)), Err(PathError::Root(root.into())));
        }
        let error = parse(Some("/a/../../etc")).unwrap_err().to_string();
        assert!(error.contains("/a/../../etc"), "{error}");
    }

    #[test]
    fn a_unit_that_is_a_slice_has_no_scope() {
        let scope = Scope::parse(Path::new("a.slice:x:b.slice")).unwrap();
        assert_eq!((scope.unit.as_str(), scope.path), ("b.slice", "a.slice/b.slice".into()));
    }

    #[test]
    fn a_path_of_systemds_form_chooses_its_driver_also_where_the_client_does_not() {
        let parse = |path: &str, systemd| {
            CgroupName::parse(Some(path.into()), "x", systemd).unwrap().systemd
        };
        assert!(!parse("/a/b", false));
        // Docker names the driver by the path alone.
        assert!(parse("system.slice:docker:x", false));
        assert!(parse("system.slice:docker:x", true));
    }

    #[test]
    fn a_path_that_is_invalid_is_named_in_a_sentence() {
        let parse =
            |path: &str| CgroupName::parse(Some(path.into()), "x", false).unwrap_err().to_string();
        let parent = "linux.cgroupsPath is \"../x\": it must not contain \"..\"";
        assert_eq!(parse("../x"), parent);
        assert_eq!(parse("/."), "linux.cgroupsPath is \"/.\": it names no cgroup");
    }
}
