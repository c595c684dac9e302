//! User namespaces: creates one with its mappings, and maps ids in it to ids outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec, User};

use crate::signals::exit_now;

/// Why a user namespace could not be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserNamespaceError {
    #[error("cannot create a user namespace: uidMappings and gidMappings must not be empty")]
    NoMappings,
    #[error("cannot create a user namespace: {0}")]
    Create(io::Error),
    #[error("cannot create a user namespace: its process has ended: {0:?}")]
    Ended(WaitStatus),
    #[error("cannot map the user namespace's ids ({mappings}): {source}")]
    Map { mappings: String, source: io::Error },
    #[error("cannot open {}: {source}", .path.display())]
    Open { path: PathBuf, source: io::Error },
}

/// The user namespace of a configuration, if it has one.
pub(crate) fn configured(linux: &Linux) -> Option<&LinuxNamespace> {
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// Maps the user and group id of a user in the container to those outside of it.
pub(crate) fn outside(spec: &Spec, user: Option<&User>) -> (u32, u32) {
    let linux = spec.linux().as_ref().filter(|linux| configured(linux).is_some());
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    let Some(linux) = linux else { return (uid, gid) };
    (map(uid, linux.uid_mappings().as_deref()), map(gid, linux.gid_mappings().as_deref()))
}

fn map(id: u32, mappings: Option<&[LinuxIdMapping]>) -> u32 {
    let outside = |map: &LinuxIdMapping| {
        let offset = id.checked_sub(map.container_id())?;
        (offset < map.size()).then(|| map.host_id().saturating_add(offset))
    };
    // The kernel refuses an id without a mapping when the process sets its user.
    mappings.into_iter().flatten().find_map(outside).unwrap_or(id)
}

/// Creates a user namespace. It exists as long as its descriptor is open or a process is in it.
#[allow(unsafe_code)]
pub(crate) fn create(
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<OwnedFd, UserNamespaceError> {
    let (Some(uids @ [_, ..]), Some(gids @ [_, ..])) = (uids, gids) else {
        return Err(UserNamespaceError::NoMappings);
    };
    let failed = |errno: Errno| UserNamespaceError::Create(errno.into());
    // The kernel opens a namespace only through a process that is in it.
    // SAFETY: this process has a single thread.
    let child = match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            let entered = unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| raise(Signal::SIGSTOP));
            exit_now(entered.map_or_else(|errno| errno as i32, |()| 0));
        }
        ForkResult::Parent { child } => child,
    };
    match waitpid(child, Some(WaitPidFlag::WUNTRACED)).map_err(failed)? {
        WaitStatus::Stopped(..) => {
            let created = open_mapped(child, uids, gids);
            // Cannot fail: the child is not reaped before the wait.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            created
        }
        WaitStatus::Exited(_, errno) => Err(failed(Errno::from_raw(errno))),
        other => Err(UserNamespaceError::Ended(other)),
    }
}

/// Writes the mappings of the namespace that `child` is in, and opens it.
fn open_mapped(
    child: Pid,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<OwnedFd, UserNamespaceError> {
    for (name, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let lines: Vec<String> = mappings
            .iter()
            .map(|map| format!("{} {} {}", map.container_id(), map.host_id(), map.size()))
            .collect();
        fs::write(format!("/proc/{child}/{name}"), lines.join("\n"))
            .map_err(|source| UserNamespaceError::Map { mappings: lines.join(", "), source })?;
    }
    let path = PathBuf::from(format!("/proc/{child}/ns/user"));
    match File::open(&path) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(UserNamespaceError::Open { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn mapping(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
        let mapping = LinuxIdMappingBuilder::default();
        mapping.container_id(inside).host_id(outside).size(size).build().unwrap()
    }

    #[test]
    fn an_id_is_looked_up_in_every_range() {
        let mappings = [mapping(0, 100_000, 1000), mapping(1000, 5000, 1)];
        assert_eq!(map(0, Some(&mappings)), 100_000);
        assert_eq!(map(999, Some(&mappings)), 100_999);
        assert_eq!(map(1000, Some(&mappings)), 5000);
        assert_eq!(map(1001, Some(&mappings)), 1001);
        assert_eq!(map(7, None), 7);
    }
}
