use super::*;
use serde_json::{Value, json};

fn wrong(pointer: &str, value: Value) -> String {
    let mut config = serde_json::to_value(Spec::default()).unwrap();
    let whole: Spec = serde_json::from_value(config.clone()).unwrap();
    spec(&whole).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
        object => object[field] = value,
    }
    spec(&serde_json::from_value(config).unwrap()).unwrap_err().to_string()
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
    assert!(wrong("/mounts", json!([])).contains("no mount at /proc"));
    assert_eq!(wrong("/process/cwd", json!("a")), "process.cwd is \"a\": it must be absolute");
    assert!(wrong("/process/user/uid", json!(u32::MAX)).starts_with("process.user.uid is 4294"));
    let labelled = wrong("/process", {
        let mut process = serde_json::to_value(Spec::default()).unwrap()["process"].take();
        process["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
        process
    });
    assert!(labelled.starts_with("process.selinuxLabel is \"system_u:"), "{labelled}");
    assert!(wrong("/ociVersion", json!("2.0")).contains("ociVersion is \"2.0\""));
    assert!(wrong("/process/args", json!(["a\0b"])).contains("NUL"));
    let propagation = wrong("/linux/rootfsPropagation", json!("rrslave"));
    assert!(propagation.starts_with("linux.rootfsPropagation is \"rrslave\": "), "{propagation}");
    assert!(wrong("/process/rlimits/0/hard", json!(1)).contains("RLIMIT_NOFILE"));
    assert!(wrong("/process/capabilities/permitted", json!([])).contains("lacks "));
    assert!(wrong("/process/capabilities/effective", Value::Null).contains("effective"));
}

fn over(text: &str) -> Result<(), ConfigError> {
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
        assert!(
            bind(refused).unwrap_err().to_string().contains("cannot mount /dev at"),
            "{refused}"
        );
    }
    for allowed in ["/dev/shm", "/dev/termination-log", "/dev/mqueue", "/dev/net/tun", "/data"] {
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
    let refused = limit("RLIMIT_NOFILE", u64::MAX).unwrap_err().to_string();
    assert!(refused.contains("this kernel allows"), "{refused}");
}

#[test]
fn an_unknown_sysctl_is_named() {
    assert_eq!(known_sysctl("net.core.somaxconn"), Ok(()));
    assert_eq!(
        known_sysctl("net.core.nope").unwrap_err().to_string(),
        "cannot set sysctl net.core.nope: this kernel has no /proc/sys/net/core/nope"
    );
}

/// A process with more fields than the default one has, validated.
fn checked(fields: Value) -> Result<(), String> {
    let mut config = serde_json::to_value(Spec::default()).unwrap()["process"].take();
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    process(&serde_json::from_value(config).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_soft_limit_of_open_files_leaves_room_for_the_setup() {
    let limit = |soft: u32| {
        checked(json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": 1024}]}))
    };
    assert_eq!(limit(DESCRIPTORS_MIN), Ok(()));
    assert_eq!(
        limit(DESCRIPTORS_MIN - 1).unwrap_err(),
        "process.rlimits: RLIMIT_NOFILE: the soft limit 31 is too low: a container needs 32 \
         descriptors to start"
    );
    // Other limits may be as low as their user likes.
    assert_eq!(
        checked(json!({"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]})),
        Ok(())
    );
}

#[test]
fn each_limit_has_its_soft_value_below_its_hard_one() {
    let limits = json!({"rlimits": [
        {"type": "RLIMIT_CORE", "soft": 1, "hard": 1},
        {"type": "RLIMIT_NPROC", "soft": 2, "hard": 1},
    ]});
    let text = checked(limits).unwrap_err();
    assert!(text.ends_with("the soft limit 2 is above the hard limit 1"), "{text}");
}

#[test]
fn an_id_that_the_kernel_takes_for_unchanged_is_refused() {
    assert_eq!(checked(json!({"user": {"uid": u32::MAX - 1, "gid": u32::MAX - 1}})), Ok(()));
    let text = checked(json!({"user": {"uid": 0, "gid": u32::MAX}})).unwrap_err();
    assert_eq!(text, "process.user.gid is 4294967295: valid ids are 0 to 4294967294");
}

#[test]
fn a_nul_byte_is_refused_in_the_environment_too() {
    let text = checked(json!({"env": ["A=1", "B=a\0b"]})).unwrap_err();
    assert_eq!(text, "process.args or process.env: \"B=a\\0b\" contains a NUL byte");
}

#[test]
fn a_capability_is_effective_only_if_it_is_permitted() {
    let sets = |sets: Value| checked(json!({ "capabilities": sets }));
    assert_eq!(sets(json!({})), Ok(()));
    assert_eq!(sets(json!({"effective": [], "permitted": ["CAP_CHOWN"]})), Ok(()));
    assert_eq!(sets(json!({"effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]})), Ok(()));
    let text = sets(json!({"effective": ["CAP_CHOWN"]})).unwrap_err();
    assert_eq!(text, "process.capabilities.permitted lacks CAP_CHOWN, which effective has");
    assert!(sets(json!({"permitted": []})).unwrap_err().contains("effective is missing"));
}

#[test]
fn an_empty_label_is_none() {
    assert_eq!(checked(json!({"selinuxLabel": ""})), Ok(()));
}

#[test]
fn a_bind_mount_needs_no_type_and_any_other_mount_does() {
    let check = |text: &str| mount(&serde_json::from_str(text).unwrap());
    for option in ["bind", "rbind"] {
        let bind = format!(r#"{{"destination": "/a", "source": "/b", "options": ["{option}"]}}"#);
        assert_eq!(check(&bind), Ok(()), "{option}");
    }
    for other in [r#""options": ["ro"]"#, r#""type": """#] {
        let text = format!(r#"{{"destination": "/a", "source": "/b", {other}}}"#);
        assert_eq!(check(&text).unwrap_err().to_string(), "mounts: the mount at /a has no type");
    }
}

#[test]
fn a_propagation_that_is_empty_is_none() {
    let mut spec = Spec::default();
    let linux = spec.linux_mut().as_mut().unwrap();
    for valid in ["", "private", "rshared"] {
        linux.set_rootfs_propagation(Some(valid.to_owned()));
        assert_eq!(root_propagation(linux), Ok(()), "{valid:?}");
    }
    linux.set_rootfs_propagation(Some("public".to_owned()));
    assert_eq!(root_propagation(linux), Err(ConfigError::Propagation("public".to_owned())));
}
