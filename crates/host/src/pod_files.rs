//! The files that the containers of a pod share, if the daemon created the pod.
//!
//! With a pause container, containerd makes these files and mounts them into each container. With
//! the Sandbox API it leaves them to the shim, and configures the container like one without a pod,
//! whose `/dev/shm` is a private tmpfs.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder, Spec};

/// The names of the files in the pod's directory, and where a container has them.
const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];
/// The name of the shared tmpfs, and where a container has it.
const SHM: (&str, &str) = ("shm", "/dev/shm");

/// Adds the files in `directory` to the mounts of a container. A mount of the client at the same
/// place stays.
pub(crate) fn add(directory: &Path, spec: &mut Spec) -> Result<(), OciSpecError> {
    let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let mode = if read_only { "ro" } else { "rw" };
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let has = |mounts: &[Mount], place: &str| {
        mounts.iter().any(|mount| mount.destination() == Path::new(place))
    };
    for (name, place) in FILES {
        let file = directory.join(name);
        if !has(&mounts, place) && file.exists() {
            mounts.push(bind(&file, place, &["rbind", "rprivate", mode])?);
        }
    }
    let (name, place) = SHM;
    let shm = directory.join(name);
    let own = mounts.iter_mut().find(|mount| {
        mount.destination() == Path::new(place) && mount.typ().as_deref() == Some("tmpfs")
    });
    if let Some(own) = own.filter(|_| shm.exists()) {
        *own = bind(&shm, place, &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"])?;
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options = options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>();
    let mount = MountBuilder::default().typ("bind").source(source).destination(destination);
    mount.options(options).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(spec: &Spec) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        spec.mounts()
            .iter()
            .flatten()
            .map(|mount| {
                let source = mount.source().as_deref().map(text).unwrap_or_default();
                (text(mount.destination()), source)
            })
            .filter(|(destination, _)| {
                destination.starts_with("/etc/") || destination == "/dev/shm"
            })
            .collect()
    }

    fn pod(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        directory
    }

    #[test]
    fn a_container_gets_the_files_of_its_pod() {
        let pod = pod(&["hostname", "hosts", "resolv.conf", "shm"]);
        let mut spec = Spec::default();
        add(pod.path(), &mut spec).unwrap();
        let expected: Vec<(String, String)> = [SHM]
            .iter()
            .chain(&FILES)
            .map(|(name, place)| ((*place).to_owned(), pod.path().join(name).display().to_string()))
            .collect();
        assert_eq!(sources(&spec), expected);
    }

    #[test]
    fn a_mount_of_the_client_stays() {
        let pod = pod(&["hosts", "shm"]);
        let mounts = vec![
            bind(Path::new("/dev/shm"), "/dev/shm", &["rbind"]).unwrap(),
            bind(Path::new("/kubelet/hosts"), "/etc/hosts", &["rbind"]).unwrap(),
        ];
        let mut spec = Spec::default();
        spec.set_mounts(Some(mounts.clone()));
        add(pod.path(), &mut spec).unwrap();
        assert_eq!(spec.mounts().as_ref(), Some(&mounts));
    }
}
