//! The guest has access to the container's files alone, with the container's rights.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;
use wherry_e2e::images::files;
use wherry_e2e::on_all_daemons;
use wherry_testing::{Daemon, Run};

/// WASI's number for "permission denied".
const ACCES: i32 = 2;
/// WASI's number for "no such file".
const NOENT: i32 = 44;
/// WASI's number for "operation not permitted".
const PERM: i32 = 63;
/// The error for a path outside of the guest's directories.
const NOTCAPABLE: i32 = 76;
/// WASI's number for "read-only file system".
const ROFS: i32 = 69;

/// A folder of the host for a volume, writable for every user.
fn volume() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
    dir
}

fn the_images_files_are_there(daemon: &dyn Daemon) {
    let image = files().file("/etc/motd", 0o644, "from the image\n");
    assert_eq!(
        daemon.run(&Run::new(&image).args(&["r", "etc/motd"])).success(),
        "from the image\n"
    );
}

fn the_hosts_files_are_not(daemon: &dyn Daemon) {
    let dir = volume();
    fs::write(dir.path().join("secret"), "secret").expect("our own folder");
    let path = dir.path().join("secret").display().to_string();
    for path in [path.trim_start_matches('/'), &format!("../../../../../..{path}")] {
        let outcome = daemon.run(&Run::new(&files()).args(&["r", path]));
        assert!([NOENT, PERM, ACCES, NOTCAPABLE].contains(&outcome.code), "{outcome}");
        assert_eq!(outcome.out(), "");
    }
}

fn the_root_can_be_written_to(daemon: &dyn Daemon) {
    daemon.run(&Run::new(&files()).args(&["w", "new"])).success();
}

fn a_read_only_root_cannot_be_written_to(daemon: &dyn Daemon) {
    let image = files().file("/etc/motd", 0o644, "from the image\n");
    let outcome = daemon.run(&Run::new(&image).read_only().args(&["w", "new"]));
    assert_eq!(outcome.code, ROFS, "{outcome}");
    let read = daemon.run(&Run::new(&image).read_only().args(&["r", "etc/motd"]));
    assert_eq!(read.success(), "from the image\n");
}

fn a_volume_is_read_and_written(daemon: &dyn Daemon) {
    let dir = volume();
    fs::write(dir.path().join("in"), "from the host\n").expect("our own folder");
    let run = Run::new(&files()).bind(dir.path(), "/data");
    assert_eq!(daemon.run(&run.clone().args(&["r", "data/in"])).success(), "from the host\n");
    daemon.run(&run.args(&["w", "data/out"])).success();
    assert_eq!(
        fs::read_to_string(dir.path().join("out")).expect("the guest wrote it"),
        "written\n"
    );
}

fn a_read_only_volume_cannot_be_written_to(daemon: &dyn Daemon) {
    let dir = volume();
    fs::write(dir.path().join("in"), "from the host\n").expect("our own folder");
    let run = Run::new(&files()).bind_read_only(dir.path(), "/data");
    assert_eq!(daemon.run(&run.clone().args(&["r", "data/in"])).success(), "from the host\n");
    let outcome = daemon.run(&run.args(&["w", "data/out"]));
    assert_eq!(outcome.code, ROFS, "{outcome}");
    assert!(!dir.path().join("out").exists());
}

fn a_volume_works_in_a_read_only_root(daemon: &dyn Daemon) {
    let dir = volume();
    // The mount point must exist: nothing can be created in a read-only root.
    let image = files().folder("/data", 0o755);
    daemon
        .run(&Run::new(&image).read_only().bind(dir.path(), "/data").args(&["w", "data/out"]))
        .success();
    assert_eq!(
        fs::read_to_string(dir.path().join("out")).expect("the guest wrote it"),
        "written\n"
    );
}

fn a_tmpfs_is_written_to(daemon: &dyn Daemon) {
    let image = files().folder("/scratch", 0o755);
    daemon
        .run(&Run::new(&image).read_only().tmpfs("/scratch").args(&["w", "scratch/out"]))
        .success();
}

fn a_user_writes_as_himself(daemon: &dyn Daemon) {
    let dir = volume();
    daemon
        .run(
            &Run::new(&files().user("1234:4321"))
                .bind(dir.path(), "/data")
                .args(&["w", "data/out"]),
        )
        .success();
    let meta = fs::metadata(dir.path().join("out")).expect("the guest wrote it");
    assert_eq!((meta.uid(), meta.gid()), (1234, 4321));
}

fn a_user_may_not_read_roots_files(daemon: &dyn Daemon) {
    let image = files().file("/private", 0o600, "for root only\n");
    let outcome = daemon.run(&Run::new(&image.clone().user("1234")).args(&["r", "private"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (ACCES, ""), "{outcome}");
    assert_eq!(daemon.run(&Run::new(&image).args(&["r", "private"])).success(), "for root only\n");
}

on_all_daemons!(
    the_images_files_are_there,
    the_hosts_files_are_not,
    the_root_can_be_written_to,
    a_read_only_root_cannot_be_written_to,
    a_volume_is_read_and_written,
    a_read_only_volume_cannot_be_written_to,
    a_volume_works_in_a_read_only_root,
    a_tmpfs_is_written_to,
    a_user_writes_as_himself,
    a_user_may_not_read_roots_files,
);
