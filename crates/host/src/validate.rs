//! What is wrong with a configuration, found before anything is made: what libcontainer would tell without
//! naming the field, would take for something else, or would find when it is too late to tell.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitType, Process, Spec,
};

/// What libcontainer makes in every container's `/dev` once all is mounted.
const MADE: [&str; 13] = [
    "", "core", "fd", "full", "null", "ptmx", "random", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
];

/// Descriptors that a guest's process needs before the guest runs.
pub(crate) const DESCRIPTORS_MIN: u32 = 32;

/// Whether a container can be made of a configuration.
///
/// # Errors
/// A sentence that names the field.
pub fn spec(spec: &Spec) -> Result<(), String> {
    if !spec.version().starts_with("1.") {
        return Err(format!("ociVersion is {:?}: only 1.x is known", spec.version()));
    }
    let linux = spec.linux().as_ref().ok_or("linux is missing")?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Err(
            "linux.namespaces has no mount namespace: the container's mounts would be the host's"
                .into(),
        );
    }
    let root = spec.root().as_ref().ok_or("root is missing")?;
    if root.path().as_os_str().is_empty() {
        return Err("root.path is missing".into());
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for mount in mounts {
        let at = mount.destination();
        let options = mount.options().as_deref().unwrap_or_default();
        let bind = options.iter().any(|option| option == "bind" || option == "rbind");
        if !at.is_absolute() {
            return Err(format!("mounts: the destination {at:?} is not absolute"));
        }
        if mount.typ().as_deref().is_none_or(str::is_empty) && !bind {
            return Err(format!("mounts: that at {} has no type", at.display()));
        }
        if mount.source().is_none() {
            return Err(format!("mounts: that at {} has no source", at.display()));
        }
        over_devices(mount)?;
    }
    if !mounts.iter().any(|mount| mount.destination() == Path::new("/proc")) {
        return Err("mounts: there is none at /proc".into());
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        known_sysctl(name)?;
    }
    process(spec.process().as_ref().ok_or("process is missing")?)
}

/// Whether a process can be executed.
///
/// # Errors
/// A sentence that names the field.
pub fn process(process: &Process) -> Result<(), String> {
    if !process.cwd().is_absolute() {
        return Err(format!("process.cwd is {:?}: it must be absolute", process.cwd()));
    }
    // To the kernel this means: as it is, which is root.
    let user = process.user();
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return Err(format!("process.user.{name} is {id}: there is no such one"));
        }
    }
    let strings = process.args().iter().chain(process.env()).flatten();
    if let Some(text) = strings.into_iter().find(|text| text.contains('\0')) {
        return Err(format!("process.args or env: {text:?} holds a NUL byte"));
    }
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        open_files(limit)?;
        if soft > hard {
            return Err(format!("process.rlimits: {name}: soft, {soft}, is above hard, {hard}"));
        }
        if name == PosixRlimitType::RlimitNofile && soft < u64::from(DESCRIPTORS_MIN) {
            return Err(format!(
                "process.rlimits: {name}: soft, {soft}, is too low: a container needs {DESCRIPTORS_MIN} descriptors to start"
            ));
        }
    }
    selinux_label(process.selinux_label().as_deref())?;
    let Some(capabilities) = process.capabilities() else { return Ok(()) };
    let none = Capabilities::new();
    let permitted = capabilities.permitted().as_ref().unwrap_or(&none);
    // The kernel holds the one to be part of the other; libcontainer leaves alone what is missing.
    match capabilities.effective() {
        None if capabilities.permitted().is_some() => {
            Err("process.capabilities.effective is missing beside permitted".into())
        }
        Some(effective) => effective
            .difference(permitted)
            .map(|one| {
                Err(format!("process.capabilities.permitted lacks CAP_{one}, which effective has"))
            })
            .next()
            .unwrap_or(Ok(())),
        None => Ok(()),
    }
}

/// libcontainer passes over SELinux labels. A process without the label that was asked for would be less confined than its
/// user believes.
fn selinux_label(label: Option<&str>) -> Result<(), String> {
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
    let cause = if Path::new("/sys/fs/selinux/enforce").exists() {
        "this runtime cannot apply labels; run the container without one (--security-opt label=disable)"
    } else {
        "SELinux is not enabled on this machine"
    };
    Err(format!("process.selinuxLabel is {label:?}: {cause}"))
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
    use serde_json::{Value, json};

    fn wrong(pointer: &str, value: Value) -> String {
        let mut config = serde_json::to_value(Spec::default()).unwrap();
        let whole: Spec = serde_json::from_value(config.clone()).unwrap();
        spec(&whole).unwrap();
        *config.pointer_mut(pointer).unwrap() = value;
        spec(&serde_json::from_value(config).unwrap()).unwrap_err()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(wrong("/linux", Value::Null), "linux is missing");
        assert_eq!(wrong("/process", Value::Null), "process is missing");
        assert_eq!(wrong("/root/path", json!("")), "root.path is missing");
        assert!(wrong("/linux/namespaces", json!([])).contains("no mount namespace"));
        assert!(wrong("/mounts/0/destination", json!("proc")).contains("\"proc\""));
        assert!(wrong("/mounts/0/type", Value::Null).contains("/proc has no type"));
        assert!(wrong("/mounts/0/source", Value::Null).contains("/proc has no source"));
        assert!(wrong("/mounts", json!([])).contains("none at /proc"));
        assert_eq!(wrong("/process/cwd", json!("a")), "process.cwd is \"a\": it must be absolute");
        assert!(
            wrong("/process/user/uid", json!(u32::MAX)).starts_with("process.user.uid is 4294")
        );
        let labelled = wrong("/process", {
            let mut process = serde_json::to_value(Spec::default()).unwrap()["process"].take();
            process["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
            process
        });
        assert!(labelled.starts_with("process.selinuxLabel is \"system_u:"), "{labelled}");
        assert!(wrong("/ociVersion", json!("2.0")).contains("ociVersion is \"2.0\""));
        assert!(wrong("/process/args", json!(["a\0b"])).contains("NUL"));
        assert!(wrong("/process/rlimits/0/hard", json!(1)).contains("RLIMIT_NOFILE"));
        assert!(wrong("/process/capabilities/permitted", json!([])).contains("lacks "));
        assert!(wrong("/process/capabilities/effective", Value::Null).contains("effective"));
    }

    fn over(text: &str) -> Result<(), String> {
        over_devices(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_mount_over_the_devices_is_refused() {
        let bind = |destination: &str| {
            let mount = format!(
                r#"{{"destination": "{destination}", "source": "/dev", "type": "bind", "options": ["rbind"]}}"#
            );
            over(&mount)
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
        assert_eq!(over(own), Ok(()));
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
        assert_eq!(known_sysctl("net.core.somaxconn"), Ok(()));
        assert_eq!(
            known_sysctl("net.core.nope"),
            Err("cannot set sysctl net.core.nope: this kernel has no /proc/sys/net/core/nope"
                .into())
        );
    }
}
