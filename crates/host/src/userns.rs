//! User namespaces: making one with its mappings, and who an id inside is outside.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec, User};

use super::signals::exit_now;

/// The namespace that a configuration has for its container's users, if it has one.
pub(crate) fn wanted(linux: &Linux) -> Option<&oci_spec::runtime::LinuxNamespace> {
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// The user and group, outside of the container, of a user inside.
pub(crate) fn outside(spec: &Spec, user: Option<&User>) -> (u32, u32) {
    let linux = spec.linux().as_ref().filter(|linux| wanted(linux).is_some());
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    let Some(linux) = linux else { return (uid, gid) };
    (map(uid, linux.uid_mappings().as_deref()), map(gid, linux.gid_mappings().as_deref()))
}

fn map(id: u32, mappings: Option<&[LinuxIdMapping]>) -> u32 {
    let outside = |map: &LinuxIdMapping| {
        let offset = id.checked_sub(map.container_id())?;
        (offset < map.size()).then(|| map.host_id().saturating_add(offset))
    };
    mappings.into_iter().flatten().find_map(outside).unwrap_or(id)
}

/// Makes a user namespace. It lives for as long as its descriptor is open or a process is in it.
#[allow(unsafe_code)]
pub(crate) fn make(
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<OwnedFd, String> {
    let (Some(uids @ [_, ..]), Some(gids @ [_, ..])) = (uids, gids) else {
        return Err("a user namespace takes both uidMappings and gidMappings".to_owned());
    };
    let failed = |errno: Errno| format!("cannot make a user namespace: {}", errno.desc());
    // A namespace is only found through a process that is in it.
    // SAFETY: the host has a single thread.
    let child = match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            let made = unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| raise(Signal::SIGSTOP));
            exit_now(made.map_or_else(|errno| errno as i32, |()| 0));
        }
        ForkResult::Parent { child } => child,
    };
    match waitpid(child, Some(WaitPidFlag::WUNTRACED)) {
        Ok(WaitStatus::Stopped(..)) => {
            let made = settle(child, uids, gids);
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            made
        }
        Ok(WaitStatus::Exited(_, errno)) => Err(failed(Errno::from_raw(errno))),
        Ok(other) => Err(format!("cannot make a user namespace: {other:?}")),
        Err(errno) => Err(failed(errno)),
    }
}

/// Writes the mappings of the namespace in which `child` is.
fn settle(child: Pid, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd, String> {
    for (name, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let lines: Vec<String> = mappings
            .iter()
            .map(|map| format!("{} {} {}", map.container_id(), map.host_id(), map.size()))
            .collect();
        fs::write(format!("/proc/{child}/{name}"), lines.join("\n")).map_err(|error| {
            format!("cannot map the user namespace's ids ({}): {error}", lines.join(", "))
        })?;
    }
    let path = format!("/proc/{child}/ns/user");
    File::open(&path).map(OwnedFd::from).map_err(|error| format!("cannot open {path}: {error}"))
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
