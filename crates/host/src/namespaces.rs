//! Namespaces that a spare host makes before it knows its container.
//!
//! A new network namespace takes half a millisecond, of which a container's Create then waits for
//! none. It and the IPC namespace have nothing of a container: a container that gets a new one gets
//! this one. The others take a few microseconds, or depend on the configuration.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::userns;

/// The namespaces, their types, and the files of procfs that lead to a process's own.
const MADE: [(LinuxNamespaceType, CloneFlags, &str); 2] = [
    (LinuxNamespaceType::Network, CloneFlags::CLONE_NEWNET, "/proc/thread-self/ns/net"),
    (LinuxNamespaceType::Ipc, CloneFlags::CLONE_NEWIPC, "/proc/thread-self/ns/ipc"),
];

/// New namespaces that no process is in. They end with the descriptors.
#[derive(Debug)]
pub(crate) struct SpareNamespaces([File; MADE.len()]);

impl SpareNamespaces {
    /// Makes them. This process enters and leaves them.
    ///
    /// # Errors
    /// If the kernel refuses, as at a limit of namespaces.
    pub(crate) fn create() -> io::Result<SpareNamespaces> {
        let open = || -> io::Result<[File; MADE.len()]> {
            let [(.., network), (.., ipc)] = MADE;
            Ok([File::open(network)?, File::open(ipc)?])
        };
        let own = open()?;
        let all = MADE.iter().fold(CloneFlags::empty(), |all, (_, flag, _)| all | *flag);
        unshare(all)?;
        let made = open();
        for (namespace, (_, flag, _)) in own.iter().zip(MADE) {
            setns(namespace, flag)?;
        }
        Ok(SpareNamespaces(made?))
    }

    /// Replaces the new namespaces of a configuration by these: libcontainer joins them by their
    /// paths. They must stay open until the container's first process exists.
    pub(crate) fn give_to(&self, spec: &mut Spec) {
        let Some(linux) = spec.linux_mut() else { return };
        // These belong to the user namespace of this process.
        if userns::configured(linux).is_some() {
            return;
        }
        for namespace in linux.namespaces_mut().iter_mut().flatten() {
            let made = MADE.iter().zip(&self.0).find(|((kind, ..), _)| *kind == namespace.typ());
            if let Some((_, file)) = made
                && namespace.path().is_none()
            {
                namespace.set_path(Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn given(namespaces: Value, spare: &SpareNamespaces) -> Vec<Option<String>> {
        let text = json!({"ociVersion": "1.2.0", "linux": {"namespaces": namespaces}});
        let mut spec: Spec = serde_json::from_value(text).unwrap();
        spare.give_to(&mut spec);
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let path = |path: &std::path::PathBuf| path.display().to_string();
        namespaces.iter().map(|namespace| namespace.path().as_ref().map(path)).collect()
    }

    #[test]
    fn only_new_namespaces_of_the_same_user_namespace_are_replaced() {
        let null = || File::open("/dev/null").unwrap();
        let spare = SpareNamespaces([null(), null()]);
        let [network, ipc] = &spare.0;
        let of = |file: &File| Some(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let new = json!([{"type": "ipc"}, {"type": "mount"}, {"type": "network"}]);
        assert_eq!(given(new, &spare), [of(ipc), None, of(network)]);
        let joined = json!([{"type": "network", "path": "/run/netns/a"}, {"type": "ipc"}]);
        assert_eq!(given(joined, &spare), [Some("/run/netns/a".to_owned()), of(ipc)]);
        let user = json!([{"type": "user"}, {"type": "network"}]);
        assert_eq!(given(user, &spare), [None, None]);
    }

    #[test]
    fn this_process_returns_to_its_namespaces() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // Namespaces are those of a thread.
        let created = std::thread::spawn(|| {
            let own = |path| std::fs::read_link(path).unwrap();
            let before = MADE.map(|(.., path)| own(path));
            let made = SpareNamespaces::create().unwrap();
            assert_eq!(MADE.map(|(.., path)| own(path)), before);
            let inside = |file: &File| own(format!("/proc/self/fd/{}", file.as_raw_fd()).leak());
            (before, made.0.each_ref().map(inside))
        });
        let (before, made) = created.join().unwrap();
        assert!(before.iter().zip(&made).all(|(before, made)| before != made), "{made:?}");
    }
}
