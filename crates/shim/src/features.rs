//! The features of this runtime, as `runc features` prints them.
//!
//! Each entry has an effect here: it is implemented by libcontainer as this project calls it, or by
//! this project. A field that is missing means "unknown" to a reader. Kubernetes offers `hostUsers:
//! false` and recursive read-only mounts only on a runtime that lists `user`, `idmap` and `rro`.
//!
//! Specification: `features.md` and `features-linux.md` of the OCI runtime specification.

use crate::group;

/// Mount options. Left out are the propagation types, `remount`, `sync`, `dirsync` and `mand`,
/// which libcontainer 0.7 parses without an effect.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rrelatime",
    "rro",
    "rrw",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "rw",
    "strictatime",
    "suid",
];

const HOOKS: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const SECCOMP_OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The architectures of libseccomp 2.5, which is the oldest that this project is linked with.
const SECCOMP_ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

const SECCOMP_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The features, as JSON. Selinux: a configuration with a label is refused. The annotations decide
/// which containers share a daemon.
pub(crate) fn features() -> String {
    // No name needs an escape.
    let list = |names: &[&str]| format!("[\"{}\"]", names.join("\",\""));
    format!(
        r#"{{
  "ociVersionMin": "1.0.0",
  "ociVersionMax": "1.2.1",
  "hooks": {},
  "mountOptions": {},
  "linux": {{
    "namespaces": {},
    "capabilities": {},
    "cgroup": {{"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false}},
    "seccomp": {{
      "enabled": true,
      "actions": {},
      "operators": {},
      "archs": {},
      "knownFlags": {}
    }},
    "apparmor": {{"enabled": true}},
    "selinux": {{"enabled": false}},
    "mountExtensions": {{"idmap": {{"enabled": true}}}}
  }},
  "potentiallyUnsafeConfigAnnotations": {}
}}"#,
        list(HOOKS),
        list(MOUNT_OPTIONS),
        list(NAMESPACES),
        list(CAPABILITIES),
        list(SECCOMP_ACTIONS),
        list(SECCOMP_OPERATORS),
        list(SECCOMP_ARCHITECTURES),
        list(SECCOMP_FLAGS),
        list(&group::ANNOTATIONS),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::str::FromStr;

    use libcontainer::syscall::linux::{MountOption, MountRecursive};
    use oci_spec::runtime::{
        Capability, Features, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    };
    use serde_json::json;

    /// Those that libcontainer parses and then ignores.
    const WITHOUT_EFFECT: &[&str] = &[
        "dirsync",
        "mand",
        "private",
        "remount",
        "rprivate",
        "rshared",
        "rslave",
        "runbindable",
        "shared",
        "slave",
        "sync",
        "unbindable",
    ];

    #[test]
    fn the_mount_options_are_those_of_libcontainer_that_have_an_effect() {
        let listed: BTreeSet<&str> = MOUNT_OPTIONS.iter().copied().collect();
        assert_eq!(listed.len(), MOUNT_OPTIONS.len(), "an option is listed twice");
        for option in MountOption::known_options() {
            let effective = !WITHOUT_EFFECT.contains(&option.as_str());
            assert_eq!(listed.contains(option.as_str()), effective, "{option}");
        }
        for option in &listed {
            let known = MountOption::from_str(option).is_ok()
                || MountRecursive::from_str(option).is_ok()
                || ["idmap", "ridmap"].contains(option);
            assert!(known, "{option}");
        }
        assert!(listed.contains("rro"));
    }

    #[test]
    fn each_name_is_one_that_a_configuration_can_use() {
        fn parses<T: serde::de::DeserializeOwned>(names: &[&str]) {
            for name in names {
                assert!(serde_json::from_value::<T>(json!(name)).is_ok(), "{name}");
            }
        }
        parses::<Capability>(CAPABILITIES);
        parses::<LinuxSeccompAction>(SECCOMP_ACTIONS);
        parses::<LinuxSeccompOperator>(SECCOMP_OPERATORS);
        parses::<LinuxSeccompFilterFlag>(SECCOMP_FLAGS);
        let features: Features = serde_json::from_str(&features()).unwrap();
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), NAMESPACES.len());
        assert_eq!(
            linux.seccomp().as_ref().unwrap().archs().as_ref().unwrap().len(),
            SECCOMP_ARCHITECTURES.len()
        );
        assert_eq!(features.hooks().as_ref().unwrap().len(), HOOKS.len());
        let idmap = linux.mount_extensions().as_ref().unwrap().idmap().as_ref().unwrap();
        assert_eq!(*idmap.enabled(), Some(true));
    }
}
