//! The volumes, tmpfs and devices of `docker run`, as a guest sees them.

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use wherry_e2e::images::kit;
use wherry_e2e::inside::{look, of, run};
use wherry_e2e::{on_containerds, on_dockers};
use wherry_testing::{Containerd, Daemon, Docker, Run, busybox};

const MOUNTS: &str = "read /proc/self/mountinfo";

/// The options of the mount at a place, and of its filesystem.
fn options<'s>(said: &'s str, place: &str) -> Vec<&'s str> {
    let words = |line: &'s str| line.split(' ').collect::<Vec<_>>();
    let found = said.lines().map(words).find(|words| words.get(4) == Some(&place));
    let found = found.unwrap_or_else(|| panic!("nothing is mounted at {place}: {said}"));
    [found[5], found[found.len() - 1]].iter().flat_map(|list| list.split(',')).collect()
}

#[track_caller]
fn assert_has(options: &[&str], wanted: &[&str]) {
    assert!(wanted.iter().all(|option| options.contains(option)), "{wanted:?} of {options:?}");
}

fn a_tmpfs_has_its_size_and_mode(docker: &Docker) {
    let words = [
        "--read-only",
        "--tmpfs",
        "/one:size=1m,mode=1770,noexec",
        "--mount",
        "type=tmpfs,dst=/two,tmpfs-size=2097152,tmpfs-mode=0750",
        "--shm-size",
        "7m",
    ];
    let image = kit(false).folder("/one", 0o755).folder("/two", 0o755);
    let lines = [MOUNTS, "write /one/x x", "write /two/x x", "write /dev/shm/x x"];
    let said = look(docker, &image, &words, &lines);
    assert_has(&options(&said, "/"), &["ro"]);
    assert_has(&options(&said, "/one"), &["rw", "noexec", "size=1024k", "mode=1770"]);
    assert_has(&options(&said, "/two"), &["rw", "size=2048k", "mode=750"]);
    assert_has(&options(&said, "/dev/shm"), &["rw", "size=7168k"]);
}

fn a_tmpfs_without_a_mode_has_that_of_the_directory_that_it_covers(docker: &Docker) {
    let image = busybox().folder("/one", 0o750).folder("/two", 0o1755);
    let words = ["/bin/busybox", "stat", "-c", "%a %u", "/one", "/two", "/new"];
    let of = |runtime: &str| {
        let tmpfs = ["--tmpfs", "/one:size=1m", "--tmpfs", "/two", "--tmpfs", "/new"];
        let outcome = docker.run(&Run::new(&image).runtime(runtime).extra(&tmpfs).args(&words));
        assert_eq!(outcome.code, 0, "{outcome}");
        outcome.out()
    };
    let ours = of(&wherry_testing::runtime());
    assert_eq!(ours, of("io.containerd.runc.v2"));
    assert!(ours.starts_with("750 0\n1755 0\n"), "{ours}");
}

fn a_named_volume_stays_and_begins_with_the_images_files(docker: &Docker) {
    let name = format!("volume-{}", docker.containerd().new_id());
    let image = kit(false).file("/data/first", 0o644, "from the image\n");
    let words = ["--volume", &format!("{name}:/data")];
    look(docker, &image, &words, &["write /data/second written"]);
    let (one, two) = ("read /data/first", "read /data/second");
    let mount = format!("type=volume,src={name},dst=/data,readonly");
    let outcome = run(docker, &image, &["--mount", &mount], &[one, "write /data/x x", two]);
    let said = outcome.out();
    assert_eq!((of(&said, one), of(&said, two)), ("from the image\n", "written"), "{outcome}");
    assert_eq!(outcome.code, 1, "only the write fails: {outcome}");
    docker.docker(&["volume", "rm", &name]).success();
}

fn a_bind_is_of_the_host_and_read_only_where_told(docker: &Docker) {
    let dir = TempDir::new().expect("a temporary folder");
    fs::write(dir.path().join("in"), "from the host\n").expect("our own folder");
    let mount = |more: &str| format!("type=bind,src={},dst=/data{more}", dir.path().display());
    let lines = ["read /data/in", "write /data/out written"];
    look(docker, &kit(false), &["--mount", &mount("")], &lines);
    let out = dir.path().join("out");
    assert_eq!(fs::read_to_string(&out).expect("the guest wrote it"), "written");
    fs::remove_file(&out).expect("it is there");
    let outcome = run(docker, &kit(false), &["--mount", &mount(",readonly")], &lines);
    assert_eq!(outcome.code, 1, "only the write fails: {outcome}");
    assert!(!out.exists());
    // A mount of a single file.
    let file = format!("{}:/etc/one:ro", dir.path().join("in").display());
    let said = look(docker, &kit(false), &["--volume", &file], &["read /etc/one"]);
    assert!(said.ends_with("from the host\n"), "{said}");
}

fn volumes_come_from_another_container(docker: &Docker) {
    let dir = TempDir::new().expect("a temporary folder");
    let run = Run::new(&kit(false)).args(&["sleep", "100000"]).bind(dir.path(), "/data");
    let other = docker.start(&run);
    look(docker, &kit(false), &["--volumes-from", other.id()], &["write /data/x written"]);
    assert_eq!(fs::read_to_string(dir.path().join("x")).expect("written"), "written");
}

fn a_device_is_there_with_the_rights_it_was_given(docker: &Docker) {
    let writing = ["write /dev/mine x"];
    let outcome = run(docker, &kit(false), &["--device", "/dev/full:/dev/mine"], &writing);
    assert!(outcome.err().contains("/dev/mine: No space left on device"), "{outcome}");
    let words = ["--device", "/dev/kmsg:/dev/mine:r"];
    let outcome = run(docker, &kit(false), &words, &["list /dev", writing[0]]);
    assert_eq!(outcome.code, 1, "only the write fails: {outcome}");
    assert!(outcome.out().lines().any(|name| name == "mine"), "{outcome}");
    assert!(outcome.err().contains("/dev/mine: Operation not permitted"), "{outcome}");
    // A device that every container has anyway.
    let words = ["--device", "/dev/null", "--device-cgroup-rule", "c 1:3 rw"];
    look(docker, &kit(false), &words, &["write /dev/null x"]);
}

fn a_mount_over_the_devices_is_refused(docker: &Docker) {
    for place in ["/dev", "/dev/null"] {
        let outcome = docker.run(&Run::new(&kit(false)).bind(Path::new(place), place));
        assert_eq!(outcome.code, 125, "{outcome}");
        let wanted = format!("cannot mount {place} at {place}: every container has devices");
        assert!(outcome.err().contains(&wanted), "{outcome}");
    }
}

/// A tmpfs whose mounts propagate to others and from them; unmounted when dropped.
struct SharedMount(TempDir);

impl SharedMount {
    fn new() -> SharedMount {
        let mount = SharedMount(TempDir::new().expect("a temporary folder"));
        for words in [&["-t", "tmpfs", "none"][..], &["--make-shared"][..]] {
            let status = Command::new("mount").args(words).arg(mount.0.path()).status();
            assert!(status.expect("mount runs").success(), "{words:?}");
        }
        mount
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        // A test that failed may have left nothing to unmount.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn a_volume_has_the_propagation_that_it_was_given(docker: &Docker) {
    let shared = SharedMount::new();
    for (propagation, tag) in [
        ("private", None),
        ("rprivate", None),
        ("slave", Some("master:")),
        ("rslave", Some("master:")),
        ("shared", Some("shared:")),
        ("rshared", Some("shared:")),
    ] {
        let source = shared.0.path().display();
        let mount = format!("type=bind,src={source},dst=/data,bind-propagation={propagation}");
        let said = look(docker, &kit(false), &["--mount", &mount], &[MOUNTS]);
        let mut lines = said.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|words| words.get(4) == Some(&"/data"));
        let line = line.unwrap_or_else(|| panic!("nothing is mounted at /data: {said}"));
        match tag {
            Some(tag) => assert!(line[6].starts_with(tag), "{propagation}: {line:?}"),
            None => assert_eq!(line[6], "-", "{propagation}: {line:?}"),
        }
    }
}

on_dockers!(
    a_volume_has_the_propagation_that_it_was_given,
    a_tmpfs_has_its_size_and_mode,
    a_tmpfs_without_a_mode_has_that_of_the_directory_that_it_covers,
    a_named_volume_stays_and_begins_with_the_images_files,
    a_bind_is_of_the_host_and_read_only_where_told,
    volumes_come_from_another_container,
    a_device_is_there_with_the_rights_it_was_given,
    a_mount_over_the_devices_is_refused,
);

/// Options that `-info` lists, with the flag that the kernel then shows for the mount, and whether
/// for the mounts below it too.
const FEATURES: [(&str, &str, bool); 12] = [
    ("ro", "ro", false),
    ("nosuid", "nosuid", false),
    ("nodev", "nodev", false),
    ("noexec", "noexec", false),
    ("noatime", "noatime", false),
    ("nodiratime", "nodiratime", false),
    ("rro", "ro", true),
    ("rnosuid", "nosuid", true),
    ("rnodev", "nodev", true),
    ("rnoexec", "noexec", true),
    ("rnoatime", "noatime", true),
    ("rnodiratime", "nodiratime", true),
];

/// Kubernetes offers recursive read-only mounts because the features list `rro`.
fn mount_options_hold_and_recursive_ones_also_for_the_mounts_below(containerd: &Containerd) {
    // The end of this containerd unmounts everything below this folder.
    let folder = containerd.root().join(format!("mounts-{}", containerd.new_id()));
    let below = folder.join("below");
    fs::create_dir_all(&below).expect("the daemon's folder is writable");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "strictatime", "below"]).arg(&below);
    assert!(mount.status().is_ok_and(|status| status.success()));
    let mounts = FEATURES.map(|(option, ..)| {
        let source = folder.display();
        format!("type=bind,src={source},dst=/mnt/{option},options=rbind:{option}")
    });
    let words: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount]).collect();
    for (image, command) in [(busybox(), "cat"), (kit(false), "read")] {
        let run = Run::new(&image).extra(&words).args(&[command, "/proc/self/mountinfo"]);
        let said = containerd.run(&run).success();
        let has = |place: &str, flag: &str| options(&said, place).contains(&flag);
        for (option, flag, recursive) in FEATURES {
            let place = format!("/mnt/{option}");
            assert!(has(&place, flag), "{option}: {said}");
            assert_eq!(has(&format!("{place}/below"), flag), recursive, "{option}: {said}");
        }
    }
}

on_containerds!(mount_options_hold_and_recursive_ones_also_for_the_mounts_below);
