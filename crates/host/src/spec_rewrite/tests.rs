use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

fn rewritten(pointer: &str, value: Value, rewrite: impl Fn(&mut Spec)) -> Spec {
    let mut config = serde_json::to_value(Spec::default()).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[field] = value;
    let mut spec = serde_json::from_value(config).unwrap();
    rewrite(&mut spec);
    spec
}

#[test]
fn cgroups_of_version_1_are_the_containers_own_with_the_options_of_the_mount() {
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        {"destination": "/last", "type": "tmpfs", "source": "tmpfs"},
    ]);
    let hierarchy = |name: &str| Hierarchy {
        mount: Path::new("/sys/fs/cgroup").join(name),
        controllers: name.split(',').map(str::to_owned).collect(),
    };
    let all = [hierarchy("cpu,cpuacct"), hierarchy("memory")];
    let spec = rewritten("/mounts", mounts, |spec| {
        rewrite_cgroup_mount(spec, Path::new("/docker/x"), &all).unwrap();
    });
    let mounts = spec.mounts().as_ref().unwrap();
    let shown: Vec<_> = mounts
        .iter()
        .map(|mount| (mount.destination().to_str().unwrap(), mount.source().clone().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            ("/proc", "proc".into()),
            ("/sys/fs/cgroup", "tmpfs".into()),
            ("/sys/fs/cgroup/cpu,cpuacct", PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/docker/x")),
            ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/docker/x".into()),
            ("/last", "tmpfs".into()),
        ]
    );
    let options = mounts[3].options().clone().unwrap();
    assert_eq!(options, ["nosuid", "noexec", "nodev", "ro", "bind"]);
}

#[test]
fn the_root_has_a_propagation_that_libcontainer_knows() {
    for (configured, expected) in [
        ("private", "slave"),
        ("rprivate", "private"),
        ("slave", "slave"),
        ("rslave", "slave"),
        ("shared", "shared"),
        ("rshared", "shared"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let spec = rewritten("/linux/rootfsPropagation", json!(configured), rewrite_propagation);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.rootfs_propagation().as_deref(), Some(expected), "{configured}");
    }
}

#[test]
fn a_sysfs_is_read_only_as_a_filesystem_where_its_mount_is() {
    let options = |options: &[&str]| {
        let mounts = json!([{"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": options}]);
        let spec = rewritten("/mounts", mounts, rewrite_sysfs);
        spec.mounts().as_ref().unwrap()[0].options().clone().unwrap()
    };
    assert_eq!(options(&["nosuid", "ro"]), ["nosuid", "ro", "ro=1"]);
    assert_eq!(options(&["nosuid", "rw"]), ["nosuid", "rw"]);
}

#[test]
fn a_tmpfs_without_a_mode_gets_that_of_the_directory_that_it_covers() {
    let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let create = |base: &tempfile::TempDir, path: &str, mode| {
        let path = base.path().join(path);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    create(&root, "private", 0o750);
    create(&root, "sticky", 0o1755);
    create(&root, "volume", 0o711);
    create(&volume, "inside", 0o700);
    std::os::unix::fs::symlink("/private", root.path().join("link")).unwrap();
    let tmpfs = |path: &str, options: &[&str]| json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options});
    let mounts = json!([
        tmpfs("/private", &["nosuid"]),
        tmpfs("/link", &[]),
        tmpfs("/sticky", &["mode=1777"]),
        tmpfs("/none", &["size=1m"]),
        tmpfs("/private/below", &[]),
        {"destination": "/volume", "type": "none", "source": volume.path(), "options": ["rbind"]},
        tmpfs("/volume/inside", &[]),
        tmpfs("/sticky/..", &[]),
    ]);
    let spec = rewritten("/mounts", mounts, |spec| rewrite_tmpfs(root.path(), spec));
    let options: Vec<String> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.options().iter().flatten().cloned().collect::<Vec<_>>().join(","))
        .collect();
    let wanted =
        ["nosuid,mode=750", "mode=750", "mode=1777", "size=1m", "", "rbind", "mode=700", ""];
    assert_eq!(options, wanted);
}

/// The hooks that libcontainer gets of a configuration with `hooks`.
fn hooks_of(hooks: Value) -> Option<Hooks> {
    let mut config = serde_json::to_value(Spec::default()).unwrap();
    config["hooks"] = hooks;
    let mut spec: Spec = serde_json::from_value(config).unwrap();
    let (channel, _other) = Channel::pair().unwrap();
    let bundle = Bundle::new(Path::new("/bundle"), "x");
    let mut open = Vec::new();
    rewrite_hooks(&bundle, &Config::from(&spec), &channel, &mut spec, &mut open).unwrap();
    spec.hooks().clone()
}

fn count(hooks: Option<&Vec<oci_spec::runtime::Hook>>) -> usize {
    hooks.map_or(0, Vec::len)
}

#[test]
fn libcontainer_gets_one_hook_for_all_that_the_daemon_runs_and_one_for_those_inside() {
    let hook = |path: &str| json!({ "path": path });
    let rewritten = hooks_of(json!({
        "prestart": [hook("/a"), hook("/b")],
        "createRuntime": [hook("/c")],
        "createContainer": [hook("/d"), hook("/e")],
    }))
    .unwrap();
    assert_eq!(count(rewritten.create_runtime().as_ref()), 1);
    assert_eq!(count(rewritten.create_container().as_ref()), 1);
    assert_eq!(count(rewritten.prestart().as_ref()), 0);
    for hooks in [rewritten.create_runtime(), rewritten.create_container()] {
        let path = hooks.as_ref().unwrap()[0].path();
        assert!(!["/a", "/c", "/d"].contains(&path.to_str().unwrap()), "{}", path.display());
    }
}

#[test]
fn hooks_that_libcontainer_has_no_part_in_are_removed_from_its_configuration() {
    // The executor runs startContainer's, the daemon poststart's and poststop's.
    let path = json!([{ "path": "/a" }]);
    for moment in ["startContainer", "poststart", "poststop"] {
        assert_eq!(hooks_of(json!({ moment: path })), None, "{moment}");
    }
    assert_eq!(hooks_of(json!({})), None);
}

#[test]
fn sets_of_processors_are_removed_and_shares_stay() {
    let resources = json!({"cpu": {"cpus": "0-1", "mems": "0", "shares": 512}});
    let spec = rewritten("/linux/resources", resources, rewrite_sets);
    let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    let cpu = resources.cpu().as_ref().unwrap();
    assert_eq!((cpu.cpus(), cpu.mems(), cpu.shares()), (&None, &None, Some(512)));
}

#[test]
fn without_a_user_namespace_no_namespace_is_opened() {
    let mut spec = Spec::default();
    let before = spec.clone();
    let mut open = Vec::new();
    rewrite_user_namespace(&mut spec, &mut open).unwrap();
    assert!(spec == before && open.is_empty());
}

#[test]
fn a_user_namespace_to_join_is_passed_as_a_descriptor_and_a_missing_one_is_named() {
    let spec = |path: &str| -> Spec {
        let mut config = serde_json::to_value(Spec::default()).unwrap();
        config["linux"]["namespaces"] = json!([{"type": "user", "path": path}, {"type": "mount"}]);
        serde_json::from_value(config).unwrap()
    };
    let (mut joined, mut open) = (spec("/proc/self/ns/user"), Vec::new());
    rewrite_user_namespace(&mut joined, &mut open).unwrap();
    let namespaces = joined.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
    let expected = PathBuf::from(format!("/proc/self/fd/{}", open[0].as_raw_fd()));
    assert_eq!(namespaces[0].path(), &Some(expected));
    assert_eq!((namespaces[1].path(), open.len()), (&None, 1));
    let missing = rewrite_user_namespace(&mut spec("/no/such/ns"), &mut Vec::new()).unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with("cannot open the namespace /no/such/ns: No such file"), "{text}");
}

#[test]
fn a_configuration_without_cgroups_and_mounts_of_version_1_keeps_its_mounts() {
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    let spec = rewritten("/mounts", mounts, |spec| {
        let before = spec.clone();
        rewrite_cgroup_mount(spec, Path::new("/x"), &[]).unwrap();
        assert_eq!(*spec, before);
    });
    assert_eq!(spec.mounts().as_ref().unwrap().len(), 1);
}
