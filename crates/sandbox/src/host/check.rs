//! What libcontainer would break at in the middle, or with a message that does not name the thing.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, PosixRlimit, PosixRlimitType, Spec};

/// What libcontainer makes in every container's `/dev` once all is mounted.
const MADE: [&str; 13] = [
    "", "core", "fd", "full", "null", "ptmx", "random", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
];

/// Refuses what a configuration asks for and cannot have, before anything of it is done.
pub(super) fn possible(spec: &Spec) -> Result<(), String> {
    for mount in spec.mounts().iter().flatten() {
        over_devices(mount)?;
    }
    let process = spec.process().as_ref();
    for limit in process.and_then(|process| process.rlimits().as_ref()).into_iter().flatten() {
        open_files(limit)?;
    }
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    sysctls.into_iter().flatten().try_for_each(|(name, _)| known_sysctl(name))
}

/// A mount over the devices is in the way of those that are made later; or they are made in what is mounted,
/// perhaps the host's own `/dev`.
fn over_devices(mount: &Mount) -> Result<(), String> {
    let bind = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    let made = MADE.iter().any(|name| *mount.destination() == Path::new("/dev").join(name));
    if !bind || !made {
        return Ok(());
    }
    let source = mount.source().as_deref().unwrap_or(Path::new("")).display();
    Err(format!(
        "cannot mount {source} at {}: every container has devices of its own there; add others with --device",
        mount.destination().display()
    ))
}

/// Nobody, whatever his capabilities, gets more open files than this.
fn open_files(limit: &PosixRlimit) -> Result<(), String> {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    match most.trim().parse() {
        Ok(most) if limit.typ() == PosixRlimitType::RlimitNofile && limit.hard() > most => {
            Err(format!(
                "cannot set the limit of open files to {}: this kernel allows {most} (fs.nr_open)",
                limit.hard()
            ))
        }
        _ => Ok(()),
    }
}

fn known_sysctl(name: &str) -> Result<(), String> {
    let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
    if path.exists() {
        return Ok(());
    }
    Err(format!("cannot set sysctl {name}: this kernel has no {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mount: &str, sysctl: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion": "1.1.0", "mounts": [{mount}], "linux": {{"sysctl": {{{sysctl}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_mount_over_the_devices_is_refused() {
        let bind = |destination: &str| {
            let mount = format!(
                r#"{{"destination": "{destination}", "source": "/dev", "type": "bind", "options": ["rbind"]}}"#
            );
            possible(&spec(&mount, ""))
        };
        for refused in ["/dev", "/dev/", "/dev/null", "/dev/zero", "/dev/urandom"] {
            assert!(bind(refused).unwrap_err().contains("cannot mount /dev at"), "{refused}");
        }
        for allowed in ["/dev/shm", "/dev/termination-log", "/dev/mqueue", "/dev/net/tun", "/data"]
        {
            assert_eq!(bind(allowed), Ok(()), "{allowed}");
        }
        let own =
            r#"{"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid"]}"#;
        assert_eq!(possible(&spec(own, "")), Ok(()));
    }

    #[test]
    fn more_open_files_than_the_kernel_allows_are_refused() {
        let limit = |typ: &str, hard: u64| {
            let text = format!(r#"{{"type": "{typ}", "soft": 5, "hard": {hard}}}"#);
            open_files(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!(limit("RLIMIT_NOFILE", 1024), Ok(()));
        assert_eq!(limit("RLIMIT_CORE", u64::MAX), Ok(()));
        let refused = limit("RLIMIT_NOFILE", u64::MAX).unwrap_err();
        assert!(refused.contains("this kernel allows"), "{refused}");
    }

    #[test]
    fn an_unknown_sysctl_is_named() {
        assert_eq!(possible(&spec("", r#""net.core.somaxconn": "5""#)), Ok(()));
        assert_eq!(
            possible(&spec("", r#""net.core.nope": "5""#)),
            Err("cannot set sysctl net.core.nope: this kernel has no /proc/sys/net/core/nope"
                .into())
        );
    }
}
