//! The namespaces of a pod, and how a thread enters them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, sethostname, setresgid, setresuid};
use wherry_sys::namespaces::owner;

/// The namespaces of a pod. All others are the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNamespaces {
    /// The network namespace, which the client has created.
    pub network: Option<PathBuf>,
    /// Whether the pod has a separate IPC namespace.
    pub ipc: bool,
    /// Whether the pod has a separate UTS namespace.
    pub uts: bool,
    /// Whether all containers share one pid namespace.
    pub pid: bool,
    /// The user namespace that owns the network namespace.
    pub user: bool,
    /// The name of the host in the UTS namespace; without one, that of the machine.
    pub hostname: Option<String>,
    /// Kernel parameters of these namespaces.
    pub sysctls: Vec<(String, String)>,
}

/// Why a pod's namespaces cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The network namespace cannot be opened or joined.
    #[error("cannot join the network namespace {}: {source}", .path.display())]
    Network {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The user namespace is found through the network namespace.
    #[error("a pod with a user namespace needs a network namespace")]
    NoNetwork,
    /// The user namespace cannot be opened or joined.
    #[error("cannot join the user namespace: {0}")]
    User(io::Error),
    /// A namespace cannot be made.
    #[error("cannot create a namespace: {0}")]
    Unshare(nix::Error),
    /// The kernel refuses the name.
    #[error("cannot set the host name {name:?}: {source}")]
    Hostname {
        /// The name.
        name: String,
        /// The cause.
        source: nix::Error,
    },
    /// A kernel parameter that this kernel does not have, or a value that it refuses.
    #[error("cannot set sysctl {name} to {value:?}: {source}")]
    Sysctl {
        /// The parameter.
        name: String,
        /// The value.
        value: String,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refuses to start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl PodNamespaces {
    /// Moves the calling thread into the namespaces, and the next child of this process into the
    /// pid namespace. A user namespace can be joined by a process with a single thread only.
    pub(super) fn enter(&self) -> Result<(), EnterError> {
        let network = match &self.network {
            Some(path) => {
                let file = File::open(path)
                    .map_err(|source| EnterError::Network { path: path.clone(), source })?;
                Some((path, file))
            }
            None => None,
        };
        if self.user {
            let (_, network) = network.as_ref().ok_or(EnterError::NoNetwork)?;
            join_user(&owner(network).map_err(EnterError::User)?)
                .map_err(|errno| EnterError::User(errno.into()))?;
        }
        if let Some((path, network)) = network {
            setns(network, CloneFlags::CLONE_NEWNET).map_err(|errno| EnterError::Network {
                path: path.clone(),
                source: errno.into(),
            })?;
        }
        unshare(self.own()).map_err(EnterError::Unshare)?;
        if let Some(name) = self.hostname.as_ref().filter(|_| self.uts) {
            sethostname(name)
                .map_err(|source| EnterError::Hostname { name: name.clone(), source })?;
        }
        self.sysctls.iter().try_for_each(|(name, value)| set(name, value))
    }

    /// The namespaces to make.
    fn own(&self) -> CloneFlags {
        let own = [
            (self.ipc, CloneFlags::CLONE_NEWIPC),
            (self.uts, CloneFlags::CLONE_NEWUTS),
            (self.pid, CloneFlags::CLONE_NEWPID),
        ];
        own.into_iter().filter(|(own, _)| *own).map(|(_, flag)| flag).collect()
    }
}

/// Joins a user namespace, as its root.
fn join_user(namespace: &OwnedFd) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Sets a kernel parameter of the namespaces of the calling thread.
fn set(name: &str, value: &str) -> Result<(), EnterError> {
    let failed =
        |source| EnterError::Sysctl { name: name.to_owned(), value: value.to_owned(), source };
    fs::write(sysctl_file(name).map_err(failed)?, value).map_err(failed)
}

/// The file of a kernel parameter. As with sysctl(8), the first separator of the name, `.` or `/`,
/// is the one between its parts, and the other stands for itself.
fn sysctl_file(name: &str) -> io::Result<PathBuf> {
    let slashes = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let relative: String = name
        .chars()
        .map(|letter| match letter {
            '.' if !slashes => '/',
            '/' if !slashes => '.',
            other => other,
        })
        .collect();
    if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is invalid"));
    }
    Ok(PathBuf::from("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_a_file_below_proc_sys() {
        let file = |name: &str| sysctl_file(name).unwrap().display().to_string();
        assert_eq!(file("net.core.somaxconn"), "/proc/sys/net/core/somaxconn");
        assert_eq!(
            file("net/ipv4/conf/eth0.1/rp_filter"),
            "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"
        );
        assert_eq!(
            file("net.ipv4.conf.eth0/1.rp_filter"),
            "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"
        );
        for name in ["", "/etc/passwd", "net/../../etc/passwd", "net..x"] {
            assert!(sysctl_file(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_user_namespace_without_a_network_namespace_is_refused() {
        let namespaces = PodNamespaces { user: true, ..PodNamespaces::default() };
        let error = namespaces.enter().unwrap_err().to_string();
        assert_eq!(error, "a pod with a user namespace needs a network namespace");
    }
}
