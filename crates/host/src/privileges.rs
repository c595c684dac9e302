//! Drops the groups and capabilities that libcontainer leaves to a process although the
//! configuration does not give them.

use caps::CapSet;
use caps::errors::CapsError;
use oci_spec::runtime::LinuxCapabilities;

/// Why the capabilities of this process could not be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("cannot read the {set:?} capabilities of this process: {source}")]
    Read { set: CapSet, source: CapsError },
    #[error("cannot drop the {set:?} capabilities of this process: {source}")]
    Drop { set: CapSet, source: CapsError },
}

/// Leaves all supplementary groups. libcontainer sets those of a configuration that names some, and
/// otherwise keeps the groups of this process: those of the service manager that started
/// containerd.
pub(crate) fn leave_groups() {
    if let Err(errno) = nix::unistd::setgroups(&[]) {
        log::warn!("cannot leave the supplementary groups of this process: {errno}");
    }
}

/// Clears each capability set that the configuration does not mention. libcontainer leaves such a
/// set unchanged: it contains every capability of root on the host.
pub(crate) fn clear_unset_capabilities(
    configured: Option<&LinuxCapabilities>,
) -> Result<(), PrivilegeError> {
    type IsSet = fn(&LinuxCapabilities) -> bool;
    // The bounding set first: it takes an effective capability to change it.
    let sets: [(CapSet, IsSet); 5] = [
        (CapSet::Ambient, |configured| configured.ambient().is_some()),
        (CapSet::Bounding, |configured| configured.bounding().is_some()),
        (CapSet::Effective, |configured| configured.effective().is_some()),
        (CapSet::Permitted, |configured| configured.permitted().is_some()),
        (CapSet::Inheritable, |configured| configured.inheritable().is_some()),
    ];
    for (set, is_set) in sets {
        if !configured.is_some_and(is_set) && !read(set)?.is_empty() {
            caps::clear(None, set).map_err(|source| PrivilegeError::Drop { set, source })?;
        }
    }
    Ok(())
}

/// Drops the capabilities that exec(2) drops for a user other than root. A wasm guest's process
/// never calls exec, and would keep root's access to files.
pub(crate) fn drop_as_exec_would() -> Result<(), PrivilegeError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let kept = read(CapSet::Ambient)?;
    // Effective first: it must be a subset of permitted.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(|source| PrivilegeError::Drop { set, source })?;
    }
    Ok(())
}

fn read(set: CapSet) -> Result<caps::CapsHashSet, PrivilegeError> {
    caps::read(None, set).map_err(|source| PrivilegeError::Read { set, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    use caps::{Capability, CapsHashSet};
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    /// Capabilities belong to a thread: each test changes those of a thread that ends with it.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    fn held(set: CapSet) -> CapsHashSet {
        caps::read(None, set).unwrap()
    }

    const SETS: [CapSet; 5] = [
        CapSet::Ambient,
        CapSet::Bounding,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ];

    #[test]
    fn a_process_without_configured_capabilities_has_none() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        on_a_thread(|| {
            clear_unset_capabilities(None).unwrap();
            for set in SETS {
                assert!(held(set).is_empty(), "{set:?}");
            }
        });
    }

    #[test]
    fn a_set_that_is_configured_is_left_to_libcontainer() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let chown = [oci_spec::runtime::Capability::Chown];
        let configured = LinuxCapabilitiesBuilder::default()
            .bounding(chown)
            .effective(chown)
            .permitted(chown)
            .inheritable(std::collections::HashSet::new())
            .ambient(std::collections::HashSet::new())
            .build()
            .unwrap();
        on_a_thread(|| {
            let before = SETS.map(held);
            clear_unset_capabilities(Some(&configured)).unwrap();
            assert_eq!(SETS.map(held), before);
        });
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_user_other_than_root_keeps_the_ambient_capabilities_alone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        on_a_thread(|| {
            nix::sys::prctl::set_keepcaps(true).unwrap();
            // SAFETY: takes integers. The system call itself, which changes only this thread.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 1234, 1234, 1234) }, 0);
            let kept: CapsHashSet =
                [Capability::CAP_CHOWN, Capability::CAP_KILL, Capability::CAP_SETPCAP].into();
            caps::set(None, CapSet::Permitted, &kept).unwrap();
            caps::set(None, CapSet::Effective, &kept).unwrap();
            caps::set(None, CapSet::Inheritable, &[Capability::CAP_KILL].into()).unwrap();
            caps::raise(None, CapSet::Ambient, Capability::CAP_KILL).unwrap();
            drop_as_exec_would().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted] {
                assert_eq!(held(set), [Capability::CAP_KILL].into(), "{set:?}");
            }
        });
    }

    #[test]
    fn root_keeps_its_capabilities() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        on_a_thread(|| {
            let before = SETS.map(held);
            drop_as_exec_would().unwrap();
            assert_eq!(SETS.map(held), before);
        });
    }

    /// In a separate process: the C library changes the groups of all threads.
    #[test]
    fn the_groups_of_the_service_manager_are_left() {
        const NAME: &str = "privileges::tests::the_groups_of_the_service_manager_are_left";
        if !nix::unistd::geteuid().is_root() || !wherry_sys::alone(NAME) {
            return;
        }
        nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4), nix::unistd::Gid::from_raw(27)])
            .unwrap();
        leave_groups();
        assert!(nix::unistd::getgroups().unwrap().is_empty());
    }
}
