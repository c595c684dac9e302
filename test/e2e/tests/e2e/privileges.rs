//! The user and the rights of a guest: users, groups, capabilities and security options of `docker
//! run`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use tempfile::TempDir;
use wherry_e2e::images::kit;
use wherry_e2e::inside::{field, look, run};
use wherry_e2e::on_dockers;
use wherry_testing::{Docker, Image};

const STATUS: &str = "read /proc/self/status";

/// An image with the kit and a file of users.
fn image() -> Image {
    let group = "root:x:0:\nguest:x:1234:\nteam:x:4000:\n";
    kit(false)
        .file("/etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\nguest:x:1234:1234::/home:/bin/sh\n")
        .file("/etc/group", 0o644, group)
        .folder("/tmp", 0o777)
}

/// A folder of the host with one file of this owner and mode; for `--volume`.
fn private(owner: (u32, u32), mode: u32) -> (TempDir, String) {
    let dir = TempDir::new().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let file = dir.path().join("file");
    fs::write(&file, "private\n").expect("our own folder");
    chown(&file, Some(owner.0), Some(owner.1)).expect("root");
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("our own file");
    let volume = format!("{}:/private", dir.path().display());
    (dir, volume)
}

fn capabilities(said: &str, set: &str) -> u64 {
    u64::from_str_radix(field(said, set)[0], 16).expect("a mask")
}

fn a_user_has_a_name_or_numbers(docker: &Docker) {
    let said = look(docker, &image(), &["--user", "guest"], &["write /tmp/x x", STATUS]);
    assert_eq!(field(&said, "Uid"), ["1234"; 4]);
    assert_eq!(field(&said, "Gid"), ["1234"; 4]);
    let said = look(docker, &image(), &["--user", "5:6"], &[STATUS]);
    assert_eq!((field(&said, "Uid"), field(&said, "Gid")), (vec!["5"; 4], vec!["6"; 4]));
}

fn more_groups_open_their_files(docker: &Docker) {
    let (_dir, volume) = private((0, 77), 0o640);
    let user = ["--user", "guest", "--volume", &volume];
    let outcome = run(docker, &image(), &user, &["read /private/file"]);
    assert_eq!((outcome.code, outcome.out().contains("private\n")), (1, false), "{outcome}");
    let groups = [&user[..], &["--group-add", "77", "--group-add", "team"]].concat();
    let said = look(docker, &image(), &groups, &["read /private/file", STATUS]);
    assert!(said.contains("\nprivate\n"), "{said}");
    let groups = field(&said, "Groups");
    assert!(["77", "4000"].iter().all(|group| groups.contains(group)), "{said}");
}

fn capabilities_are_dropped_and_added(docker: &Docker) {
    // A capability that overrides file permissions allows every read.
    let (_dir, volume) = private((1234, 1234), 0o600);
    let volume = ["--volume", &volume];
    look(docker, &image(), &volume, &["read /private/file"]);
    let dropped = [&volume[..], &["--cap-drop", "DAC_OVERRIDE"]].concat();
    let outcome = run(docker, &image(), &dropped, &["read /private/file"]);
    assert!(outcome.code == 1 && !outcome.out().contains("\nprivate"), "{outcome}");
    let only = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--cap-add", "SYS_TIME"];
    let said = look(docker, &image(), &only, &[STATUS]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(capabilities(&said, set), 1 << 10 | 1 << 25, "{set}");
    }
}

fn a_privileged_guest_has_what_the_daemon_has(docker: &Docker) {
    let said = look(docker, &image(), &["--privileged"], &[STATUS]);
    let own = fs::read_to_string("/proc/self/status").expect("Linux");
    assert_eq!(capabilities(&said, "CapEff"), capabilities(&own, "CapBnd"));
    // The engine's own filter, which every guest has.
    assert_eq!(field(&said, "Seccomp_filters"), ["1"]);
}

fn a_seccomp_profile_holds_for_the_guest(docker: &Docker) {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("profile.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    fs::write(&file, profile).expect("our own folder");
    let option = format!("seccomp={}", file.display());
    let outcome = run(
        docker,
        &image(),
        &["--security-opt", &option],
        &["mkdir /tmp/new", "write /tmp/file text", STATUS],
    );
    assert_eq!(outcome.code, 1, "only one thing fails: {outcome}");
    assert!(outcome.err().contains("/tmp/new: Operation not permitted"), "{outcome}");
    assert_eq!(field(&outcome.out(), "Seccomp"), ["2"]);
}

fn seccomp_is_on_unless_told_otherwise(docker: &Docker) {
    // In addition to the container's profile: the engine's own filter, which requires no_new_privs.
    let said = look(docker, &image(), &[], &["mkdir /tmp/new", STATUS]);
    assert_eq!((field(&said, "Seccomp"), field(&said, "Seccomp_filters")), (vec!["2"], vec!["2"]));
    let open = ["--security-opt", "seccomp=unconfined"];
    let said = look(docker, &image(), &open, &[STATUS]);
    assert_eq!(
        (field(&said, "NoNewPrivs"), field(&said, "Seccomp_filters")),
        (vec!["1"], vec!["1"])
    );
}

on_dockers!(
    a_user_has_a_name_or_numbers,
    more_groups_open_their_files,
    capabilities_are_dropped_and_added,
    a_privileged_guest_has_what_the_daemon_has,
    a_seccomp_profile_holds_for_the_guest,
    seccomp_is_on_unless_told_otherwise,
);
