//! What a guest's process may not keep of its power, besides what libcontainer takes.

use caps::CapSet;
use oci_spec::runtime::LinuxCapabilities;

/// Leaves all supplementary groups: libcontainer sets those of a configuration that names some, and leaves the others as they are,
/// which are those of the service manager that started containerd.
pub(crate) fn leave_groups() {
    if let Err(errno) = nix::unistd::setgroups(&[]) {
        log::warn!("cannot leave the supplementary groups of this process: {errno}");
    }
}

/// Takes away the capabilities of which the configuration says nothing: libcontainer leaves them as they are,
/// which is all that root has on the host.
pub(crate) fn drop_what_is_not_given(given: Option<&LinuxCapabilities>) -> Result<(), String> {
    type Given = fn(&LinuxCapabilities) -> bool;
    // The bounding set first: it takes an effective capability to change it.
    let sets: [(CapSet, Given); 5] = [
        (CapSet::Ambient, |given| given.ambient().is_some()),
        (CapSet::Bounding, |given| given.bounding().is_some()),
        (CapSet::Effective, |given| given.effective().is_some()),
        (CapSet::Permitted, |given| given.permitted().is_some()),
        (CapSet::Inheritable, |given| given.inheritable().is_some()),
    ];
    for (set, is_given) in sets {
        if !given.is_some_and(is_given) && !read(set)?.is_empty() {
            caps::clear(None, set).map_err(|error| format!("cannot drop capabilities: {error}"))?;
        }
    }
    Ok(())
}

/// Takes from a user who is not root the capabilities that exec would take. A native program loses
/// them there; a wasm guest never passes through exec, and would keep root's power over files.
pub(crate) fn drop_as_exec_would() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let kept = read(CapSet::Ambient)?;
    // Effective first: it must not hold what is not permitted.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept)
            .map_err(|error| format!("cannot drop capabilities: {error}"))?;
    }
    Ok(())
}

fn read(set: CapSet) -> Result<caps::CapsHashSet, String> {
    caps::read(None, set).map_err(|error| format!("cannot read capabilities: {error}"))
}
