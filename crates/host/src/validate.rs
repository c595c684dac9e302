//! Validation of a configuration before anything is created: faults that libcontainer would report
//! without the field's name, would ignore, or would find too late to report.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitType,
    Process, Spec,
};

use crate::propagation::Propagation;

/// The files that libcontainer creates in every container's `/dev`, after all mounts.
const DEFAULT_DEVICES: [&str; 13] = [
    "", "core", "fd", "full", "null", "ptmx", "random", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
];

/// The descriptors that a guest's process needs before the guest runs.
pub(crate) const DESCRIPTORS_MIN: u32 = 32;

/// The field of a configuration that is invalid, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A field without a value.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A version of the specification other than 1.x.
    #[error("ociVersion is {0:?}: expected 1.x")]
    Version(String),
    /// The mounts of the container would be the host's.
    #[error(
        "linux.namespaces has no mount namespace: the container's mounts would be mounts of the host"
    )]
    NoMountNamespace,
    /// A relative mount point.
    #[error("mounts: the destination {0:?} is not absolute")]
    RelativeDestination(PathBuf),
    /// A mount without a required field.
    #[error("mounts: the mount at {} has no {field}", .destination.display())]
    MountField {
        /// The mount point.
        destination: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// libcontainer needs procfs.
    #[error("mounts: no mount at /proc: a container needs procfs there")]
    NoProc,
    /// A bind mount over files that libcontainer creates.
    #[error(
        "cannot mount {} at {}: every container has devices there already; add others with --device",
        .device.display(), .destination.display()
    )]
    OverDevices {
        /// The source of the mount.
        device: PathBuf,
        /// The mount point.
        destination: PathBuf,
    },
    /// A propagation that the specification does not have.
    #[error(
        "linux.rootfsPropagation is {0:?}: expected private, shared, slave or unbindable, each also \
         with an r in front"
    )]
    Propagation(String),
    /// A kernel parameter that this kernel does not have.
    #[error("cannot set sysctl {name}: this kernel has no {}", .path.display())]
    Sysctl {
        /// The parameter.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// A relative working directory.
    #[error("process.cwd is {0:?}: it must be absolute")]
    RelativeCwd(PathBuf),
    /// The kernel takes -1 for "unchanged", which would be root.
    #[error("process.user.{field} is {id}: valid ids are 0 to 4294967294")]
    Id {
        /// `uid` or `gid`.
        field: &'static str,
        /// Its value.
        id: u32,
    },
    /// A NUL byte ends a string for the kernel.
    #[error("process.args or process.env: {0:?} contains a NUL byte")]
    NulByte(String),
    /// A soft limit above the hard limit.
    #[error("process.rlimits: {name}: the soft limit {soft} is above the hard limit {hard}")]
    SoftLimit {
        /// The limit.
        name: PosixRlimitType,
        /// Its soft value.
        soft: u64,
        /// Its hard value.
        hard: u64,
    },
    /// Too few descriptors to set the container up.
    #[error(
        "process.rlimits: RLIMIT_NOFILE: the soft limit {0} is too low: a container needs {min} \
         descriptors to start",
        min = DESCRIPTORS_MIN
    )]
    FewFiles(u64),
    /// More descriptors than the kernel allows any process.
    #[error("cannot set the limit of open files to {hard}: this kernel allows {max} (fs.nr_open)")]
    ManyFiles {
        /// The hard limit.
        hard: u64,
        /// The kernel's maximum.
        max: u64,
    },
    /// libcontainer ignores labels. A process without the configured one would be less confined
    /// than its user believes.
    #[error("process.selinuxLabel is {label:?}: {cause}")]
    SelinuxLabel {
        /// The label.
        label: String,
        /// Why it cannot be applied.
        cause: &'static str,
    },
    /// libcontainer leaves a set that is missing as it is.
    #[error("process.capabilities.effective is missing, and process.capabilities.permitted is set")]
    NoEffective,
    /// The kernel requires that effective is a subset of permitted.
    #[error("process.capabilities.permitted lacks CAP_{0}, which effective has")]
    NotPermitted(Capability),
}

/// Validates the configuration of a container.
///
/// # Errors
/// With the first invalid field.
pub fn spec(spec: &Spec) -> Result<(), ConfigError> {
    if !spec.version().starts_with("1.") {
        return Err(ConfigError::Version(spec.version().clone()));
    }
    let linux = spec.linux().as_ref().ok_or(ConfigError::Missing("linux"))?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Err(ConfigError::NoMountNamespace);
    }
    let root = spec.root().as_ref().ok_or(ConfigError::Missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(ConfigError::Missing("root.path"));
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().try_for_each(mount)?;
    if !mounts.iter().any(|mount| mount.destination() == Path::new("/proc")) {
        return Err(ConfigError::NoProc);
    }
    root_propagation(linux)?;
    linux.sysctl().iter().flatten().try_for_each(|(name, _)| known_sysctl(name))?;
    process(spec.process().as_ref().ok_or(ConfigError::Missing("process"))?)
}

fn mount(mount: &Mount) -> Result<(), ConfigError> {
    let destination = mount.destination().clone();
    if !destination.is_absolute() {
        return Err(ConfigError::RelativeDestination(destination));
    }
    if mount.typ().as_deref().is_none_or(str::is_empty) && !has_bind_option(mount) {
        return Err(ConfigError::MountField { destination, field: "type" });
    }
    if mount.source().is_none() {
        return Err(ConfigError::MountField { destination, field: "source" });
    }
    over_devices(mount)
}

fn has_bind_option(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

fn root_propagation(linux: &Linux) -> Result<(), ConfigError> {
    match linux.rootfs_propagation().as_deref() {
        Some(text) if !text.is_empty() && Propagation::parse(text).is_none() => {
            Err(ConfigError::Propagation(text.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Validates a process.
///
/// # Errors
/// With the first invalid field.
pub fn process(process: &Process) -> Result<(), ConfigError> {
    if !process.cwd().is_absolute() {
        return Err(ConfigError::RelativeCwd(process.cwd().clone()));
    }
    let user = process.user();
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return Err(ConfigError::Id { field, id });
        }
    }
    let strings = process.args().iter().chain(process.env()).flatten();
    if let Some(text) = strings.into_iter().find(|text| text.contains('\0')) {
        return Err(ConfigError::NulByte(text.clone()));
    }
    process.rlimits().iter().flatten().try_for_each(limit)?;
    selinux_label(process.selinux_label().as_deref())?;
    let Some(capabilities) = process.capabilities() else { return Ok(()) };
    let none = Capabilities::new();
    let permitted = capabilities.permitted().as_ref().unwrap_or(&none);
    match capabilities.effective() {
        None if capabilities.permitted().is_some() => Err(ConfigError::NoEffective),
        None => Ok(()),
        Some(effective) => match effective.difference(permitted).next() {
            Some(excess) => Err(ConfigError::NotPermitted(*excess)),
            None => Ok(()),
        },
    }
}

fn limit(limit: &PosixRlimit) -> Result<(), ConfigError> {
    let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
    open_files(limit)?;
    if soft > hard {
        return Err(ConfigError::SoftLimit { name, soft, hard });
    }
    if name == PosixRlimitType::RlimitNofile && soft < u64::from(DESCRIPTORS_MIN) {
        return Err(ConfigError::FewFiles(soft));
    }
    Ok(())
}

fn selinux_label(label: Option<&str>) -> Result<(), ConfigError> {
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
    let cause = if Path::new("/sys/fs/selinux/enforce").exists() {
        "this runtime cannot apply labels; run the container without one (--security-opt label=disable)"
    } else {
        "SELinux is not enabled on this machine"
    };
    Err(ConfigError::SelinuxLabel { label: label.to_owned(), cause })
}

/// A bind mount over the devices would hide those that libcontainer creates later; or libcontainer
/// would create them in the source, which may be the host's own `/dev`.
fn over_devices(mount: &Mount) -> Result<(), ConfigError> {
    let destination = mount.destination();
    let default = DEFAULT_DEVICES.iter().any(|name| *destination == Path::new("/dev").join(name));
    if !has_bind_option(mount) || !default {
        return Ok(());
    }
    let device = mount.source().clone().unwrap_or_default();
    Err(ConfigError::OverDevices { device, destination: destination.clone() })
}

/// No process, not even with all capabilities, can raise its limit above the kernel's.
fn open_files(limit: &PosixRlimit) -> Result<(), ConfigError> {
    let hard = limit.hard();
    // A container host without procfs cannot be checked; setrlimit fails there.
    let text = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    match text.trim().parse() {
        Ok(max) if limit.typ() == PosixRlimitType::RlimitNofile && hard > max => {
            Err(ConfigError::ManyFiles { hard, max })
        }
        _ => Ok(()),
    }
}

fn known_sysctl(name: &str) -> Result<(), ConfigError> {
    let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
    if path.exists() {
        return Ok(());
    }
    Err(ConfigError::Sysctl { name: name.to_owned(), path })
}

#[cfg(test)]
mod tests;
