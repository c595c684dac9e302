//! The parts of the confinement of a process that joins a container that libcontainer leaves out:
//! the user namespace, the seccomp profile, the owner of the terminal.
//!
//! The process applies them to itself as its first step. Until then it has three capabilities more
//! than the configuration gives.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{capabilities, seccomp};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};
use oci_spec::runtime::Process as ProcessSpec;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxSeccomp, Spec, User};
use wherry_bundle::Bundle;
use wherry_sys::process::Process;

use crate::error::{HostError, LibraryError};
use crate::privileges::{self, PrivilegeError};
use crate::seccomp_listener::{Listener, ListenerError};
use crate::userns;

/// Why a process could not confine itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfinementError {
    #[error("cannot change the owner of the terminal to user {uid}: {source}")]
    Terminal { uid: u32, source: io::Error },
    #[error("cannot join the user namespace: {0}")]
    UserNamespace(io::Error),
    #[error("cannot become user {uid}: {source}")]
    User { uid: u32, source: io::Error },
    #[error("cannot reset the effective capabilities: {0}")]
    Effective(LibraryError),
    #[error("cannot load the seccomp profile: {0}")]
    Seccomp(LibraryError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error("cannot drop capabilities: {0}")]
    Capabilities(LibraryError),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
}

/// The confinement that a process applies to itself.
#[derive(Clone)]
pub(crate) struct Confinement {
    seccomp: Option<LinuxSeccomp>,
    /// The listener of the seccomp profile.
    listener: Option<Rc<Listener>>,
    /// The configured capabilities.
    capabilities: Option<LinuxCapabilities>,
    user: User,
    /// The container's user namespace, and the uid of the user outside of it.
    namespace: Option<(Rc<OwnedFd>, u32)>,
    terminal: bool,
}

impl Confinement {
    /// The confinement of `process`, whose user has the uid `outside` outside of the container.
    pub(crate) fn of(
        spec: &Spec,
        process: &ProcessSpec,
        bundle: &Bundle,
        outside: u32,
        terminal: bool,
    ) -> Result<Confinement, HostError> {
        let linux = spec.linux().as_ref();
        let namespace = linux
            .and_then(userns::configured)
            .map(|_| open_user_namespace(bundle).map(|fd| (Rc::new(fd), outside)))
            .transpose()?;
        let seccomp = linux.and_then(|linux| linux.seccomp().clone());
        let listener = seccomp.as_ref().map(|profile| Listener::connect(profile, bundle));
        Ok(Confinement {
            listener: listener.transpose()?.flatten().map(Rc::new),
            seccomp,
            capabilities: process.capabilities().clone(),
            user: process.user().clone(),
            namespace,
            terminal,
        })
    }

    /// Confines this process.
    pub(crate) fn apply(&self) -> Result<(), ConfinementError> {
        let syscall = create_syscall();
        let uid = self.user.uid();
        if self.terminal {
            let uid = self.namespace.as_ref().map_or(uid, |(_, outside)| *outside);
            fchown(io::stdin(), Some(Uid::from_raw(uid)), None)
                .map_err(|errno| ConfinementError::Terminal { uid, source: errno.into() })?;
        }
        if let Some((namespace, _)) = &self.namespace {
            setns(namespace, CloneFlags::CLONE_NEWUSER)
                .map_err(|errno| ConfinementError::UserNamespace(errno.into()))?;
            become_user(&self.user)
                .map_err(|errno| ConfinementError::User { uid, source: errno.into() })?;
            // setns has given this process every capability in the namespace.
            capabilities::reset_effective(&*syscall)
                .map_err(|error| ConfinementError::Effective(LibraryError::new(error)))?;
        }
        if let Some(profile) = &self.seccomp {
            let descriptor = seccomp::initialize_seccomp(profile)
                .map_err(|error| ConfinementError::Seccomp(LibraryError::new(error)))?;
            if let (Some(descriptor), Some(listener)) = (descriptor, &self.listener) {
                listener.send(descriptor)?;
            }
        }
        if let Some(configured) = &self.capabilities {
            capabilities::drop_privileges(configured, &*syscall)
                .map_err(|error| ConfinementError::Capabilities(LibraryError::new(error)))?;
        }
        Ok(privileges::clear_unset_capabilities(self.capabilities.as_ref())?)
    }
}

/// Becomes a user of the user namespace, and keeps the permitted capabilities.
fn become_user(user: &User) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let groups: Vec<Gid> =
        user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
    prctl::set_keepcaps(true)?;
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)
}

/// Opens the user namespace of a container's first process.
fn open_user_namespace(bundle: &Bundle) -> Result<OwnedFd, HostError> {
    let pid = Container::load(bundle.state()).map_err(HostError::libcontainer)?.pid();
    let pid = pid.ok_or_else(|| HostError::NoFirstProcess(bundle.id().to_owned()))?;
    let open = |process: &std::path::Path| File::open(process.join("ns/user"));
    match Process::new(pid.as_raw()).inspect(open) {
        Ok(namespace) => Ok(namespace.into()),
        Err(source) => Err(HostError::UserNamespace(source)),
    }
}

/// The capabilities for libcontainer to leave to a process: the configured ones; CAP_SYS_ADMIN to
/// join a user namespace and to load a seccomp profile; CAP_SETPCAP to drop all others; CAP_CHOWN
/// for the terminal.
pub(crate) fn raised(configured: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let more = [Capability::SysAdmin, Capability::Setpcap, Capability::Chown];
    let add = |set: Option<&Capabilities>| -> Option<Capabilities> {
        Some(set.into_iter().flatten().copied().chain(more).collect())
    };
    // The default is not empty; the three sets that matter are set below.
    let mut raised = configured.cloned().unwrap_or_default();
    raised.set_bounding(add(raised.bounding().as_ref()));
    raised.set_effective(add(raised.effective().as_ref()));
    raised.set_permitted(add(raised.permitted().as_ref()));
    raised
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_joins_has_the_configured_capabilities_and_three_more_until_it_is_confined() {
        let more = [Capability::SysAdmin, Capability::Setpcap, Capability::Chown];
        let none = raised(None);
        for set in [none.bounding(), none.effective(), none.permitted()] {
            assert!(more.iter().all(|one| set.as_ref().unwrap().contains(one)));
        }
        let mut configured = LinuxCapabilities::default();
        let kill: Capabilities = [Capability::Kill].into_iter().collect();
        configured.set_effective(Some(kill.clone())).set_inheritable(Some(kill.clone()));
        let some = raised(Some(&configured));
        assert_eq!(some.effective().as_ref().unwrap().len(), 4);
        assert_eq!(some.inheritable(), &Some(kill), "as it was configured");
    }
}
