//! The containers of a pod, on disk: containerd before 2.3 runs `delete` only for the pod when the
//! shim is dead, and may have removed the bundles of the containers by then.
//!
//! An entry is in the bundle of the pod from the start of a container's Create to its removal: a
//! link to its bundle, and its configuration, which names its cgroup.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use wherry_bundle::{Bundle, Config};
use wherry_protocol::{Failure, FailureKind};

/// The name of the link to a container's bundle.
const BUNDLE: &str = "bundle";
/// The name of the configuration, as in a bundle.
const CONFIG: &str = "config.json";

/// A container of a pod.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its bundle, which may have been removed.
    pub(crate) bundle: Bundle,
    /// Its configuration.
    pub(crate) config: Option<Config>,
}

/// Adds a container to the list of a pod.
///
/// # Errors
/// If the disk is full.
pub(crate) fn add(pod: &Bundle, container: &Bundle) -> Result<(), Failure> {
    let entry = pod.pod_member(container.id());
    let create = || {
        fs::create_dir_all(&entry)?;
        symlink(container.path(), entry.join(BUNDLE))?;
        let (from, to) = (container.path().join(CONFIG), entry.join(CONFIG));
        // Another filesystem takes no link.
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))
    };
    create().map_err(|error| {
        remove(pod, container.id());
        let text = format!("cannot list the container in {}: {error}", entry.display());
        Failure::new(FailureKind::System, text)
    })
}

/// Removes a container from the list of a pod.
pub fn remove(pod: &Bundle, id: &str) {
    let entry = pod.pod_member(id);
    if let Err(error) = fs::remove_dir_all(&entry)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", entry.display());
    }
}

/// Returns the containers of a pod.
pub(crate) fn list(pod: &Bundle) -> Vec<Member> {
    // Missing in a pod that never had a container.
    let entries = fs::read_dir(pod.pod_members()).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let (name, path) = (entry.file_name(), entry.path());
            let warn = |error: &dyn Display| {
                log::warn!("cannot clean up all of the container in {}: {error}", path.display());
            };
            let target = fs::read_link(path.join(BUNDLE)).map_err(|error| warn(&error)).ok()?;
            let id = name.to_str()?;
            let config = Bundle::new(&path, id).config().map_err(|error| warn(&error)).ok();
            Some(Member { bundle: Bundle::new(&target, id), config })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_listed_until_it_is_removed_even_without_its_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = |id: &str| {
            let path = directory.path().join(id);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(CONFIG), r#"{"linux":{"cgroupsPath":"/pods/x"}}"#).unwrap();
            Bundle::new(&path, id)
        };
        let (pod, container) = (bundle("pod"), bundle("x"));
        assert!(list(&pod).is_empty());
        add(&pod, &container).unwrap();
        fs::remove_dir_all(container.path()).unwrap();
        let listed = list(&pod).pop().unwrap();
        assert_eq!(listed.bundle, container);
        assert_eq!(listed.config.unwrap().cgroups_path(), Some("/pods/x".into()));
        remove(&pod, "x");
        assert!(list(&pod).is_empty());
    }

    #[test]
    fn a_container_that_cannot_be_listed_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (pod, gone) =
            (Bundle::new(directory.path(), "pod"), Bundle::new("/gone".as_ref(), "x"));
        let failure = add(&pod, &gone).unwrap_err().message;
        assert!(failure.starts_with("cannot list the container in "), "{failure}");
        assert!(list(&pod).is_empty());
    }
}
