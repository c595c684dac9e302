//! Groups and capabilities that libcontainer leaves to a process and the configuration does not
//! give.

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
/// set as it is: with every capability of root on the host.
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
