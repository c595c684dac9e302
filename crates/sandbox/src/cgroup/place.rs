//! Where a container's cgroup is: what the `cgroupsPath` of a configuration means.
//!
//! It is a path below the root of the hierarchy; or, for systemd's driver, `slice:prefix:name`, the
//! scope `prefix-name.scope` in that slice.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{ROOT, collect, is_unified};

/// Where systemd keeps the units that it was asked to make.
const TRANSIENT_UNITS: &str = "/run/systemd/transient";

/// A scope of systemd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// Its cgroup, below the root of the hierarchy.
    pub(super) path: PathBuf,
    /// Its name.
    pub(super) unit: String,
}

/// What limits containers on version 1. Other hierarchies are not theirs to be in.
const CONTROLLERS: [&str; 12] = [
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
];

/// A hierarchy of version 1 that containers are in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// What it controls.
    pub(super) controllers: Vec<String>,
}

impl Hierarchy {
    /// All that are mounted.
    pub(super) fn all() -> Vec<Hierarchy> {
        mounts().into_iter().filter_map(Hierarchy::at).collect()
    }

    /// Its name is that of its controllers.
    fn at(mount: PathBuf) -> Option<Hierarchy> {
        let controllers: Vec<String> =
            mount.file_name()?.to_str()?.split(',').map(str::to_owned).collect();
        let known = controllers.iter().any(|name| CONTROLLERS.contains(&name.as_str()));
        // What is not mounted has no such file.
        (known && mount.join("tasks").exists()).then_some(Hierarchy { mount, controllers })
    }

    /// The directory of the cgroup that a configuration calls `path`.
    pub(super) fn directory(&self, path: &Path) -> PathBuf {
        self.mount.join(below_root(path))
    }
}

/// Where the hierarchies of version 1 are mounted. Where two controllers share one, the one's name is a symbolic link to
/// the other's.
fn mounts() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    hierarchies
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether a cgroup path of a configuration has the form that systemd's driver uses. Docker says
/// which driver it means by nothing else.
#[must_use]
pub fn is_systemd_path(path: &Path) -> bool {
    let slice = path.to_str().and_then(|text| text.split_once(':'));
    slice.is_some_and(|(slice, _)| slice.ends_with(".slice")) && Scope::parse(path).is_some()
}

/// The directories that the cgroup has which a configuration calls `path`, whether they are there or not: one for each
/// hierarchy. `systemd`: systemd makes it, as it does on version 2 alone.
pub(super) fn directories(path: &Path, systemd: bool) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if is_unified() {
        let scope = Scope::parse(path).filter(|_| systemd);
        let below = scope.map_or_else(|| below_root(path), |scope| systemd_root().join(scope.path));
        return vec![root.join(below)];
    }
    mounts().into_iter().map(|mount| mount.join(below_root(path))).collect()
}

/// Whether there are processes in the cgroup that a configuration calls `path`.
#[must_use]
pub fn is_used(path: &Path, systemd: bool) -> bool {
    let mut pids = Vec::new();
    directories(path, systemd).iter().for_each(|directory| collect(directory, &mut pids));
    !pids.is_empty()
}

impl Scope {
    /// The scope that `slice:prefix:name` means. No slice is systemd's own for system services.
    pub(super) fn parse(path: &Path) -> Option<Scope> {
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

    /// Whether systemd knows a unit that it was asked to make: until it is over and forgotten.
    pub(super) fn knows(unit: &str) -> bool {
        Path::new(TRANSIENT_UNITS).join(unit).exists()
    }
}

/// The path of a slice, whose name has those of all above it: `a-b.slice` is `a.slice/a-b.slice`.
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

/// The cgroup below which systemd keeps all others: the root, unless systemd has less than the whole
/// machine. systemd itself is in a scope there.
pub(super) fn systemd_root() -> PathBuf {
    let groups = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let root = own.and_then(|path| path.strip_suffix("/init.scope")).unwrap_or_default();
    below_root(Path::new(root))
}

/// A path as it is below the root, whatever it wants.
pub(super) fn below_root(path: &Path) -> PathBuf {
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
}
