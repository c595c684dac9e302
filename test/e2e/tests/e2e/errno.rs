//! A fault has the same error number in a guest as in a native program under runc, fault by fault.
//! `differences` lists the differences.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use tempfile::TempDir;
use wherry_e2e::tests_in;
use wherry_testing::{Capability, Daemon, Docker, Image, Run, can, engine, guests, runtime};

mod differences;

use differences::DIFFERENCES;

const RUNC: &str = "io.containerd.runc.v2";

/// The user of the container, who is not root.
const USER: u32 = 1234;

/// The number of faults of `test/guests/faults.c`, at least.
const FAULTS: usize = 90;

/// The forms of the program.
fn image() -> Image {
    let image = Image::new("faults")
        .file("/faults", 0o755, guests::bytes("faults.static"))
        .file("/faults.wasm", 0o755, guests::bytes("faults.wasm"))
        .file("/faults.component.wasm", 0o755, guests::bytes("faults.component.wasm"))
        .file("/etc/file", 0o666, "text\n");
    ["/ro", "/rw", "/tmp"].iter().fold(image, |image, path| image.folder(path, 0o777))
}

/// Creates the files that the program expects. Those of another user are root's.
fn prepare(folder: &Path) -> std::io::Result<()> {
    let own = |name: &str, mode: u32| -> std::io::Result<()> {
        chown(folder.join(name), Some(USER), Some(USER))?;
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode))
    };
    own("", 0o777)?;
    for name in ["folder", "full", "another", "closed", "unlisted"] {
        fs::create_dir(folder.join(name))?;
        fs::write(folder.join(name).join("file"), "text\n")?;
    }
    fs::remove_file(folder.join("folder/file"))?;
    fs::write(folder.join("file"), "text\n")?;
    fs::write(folder.join("private"), "text\n")?;
    own("file", 0o644)?;
    own("folder", 0o755)?;
    own("full", 0o755)?;
    own("closed", 0o600)?;
    own("unlisted", 0o300)?;
    fs::set_permissions(folder.join("private"), Permissions::from_mode(0o600))?;
    for (target, name) in [
        ("file", "link"),
        ("loop", "loop"),
        ("nothing", "dangling"),
        ("/ro/file", "absolute"),
        ("../../../../ro/file", "climbing"),
        ("/ro", "to-read-only"),
    ] {
        symlink(target, folder.join(name))?;
    }
    // The file stays when the listener is closed.
    UnixListener::bind(folder.join("socket")).map(drop)
}

/// Runs a form of the program and returns the error number of each fault.
fn faults(docker: &Docker, runtime: &str, program: &str) -> BTreeMap<String, String> {
    let (read_only, writable) = (TempDir::new(), TempDir::new());
    let (read_only, writable) = (read_only.expect("a folder"), writable.expect("a folder"));
    prepare(read_only.path()).expect("our own folder");
    prepare(writable.path()).expect("our own folder");
    let user = USER.to_string();
    let run = Run::new(&image())
        .runtime(runtime)
        .args(&[program])
        .read_only()
        .bind_read_only(read_only.path(), "/ro")
        .bind(writable.path(), "/rw")
        .stdin("")
        .extra(&["--user", &user, "--tmpfs", "/tmp:size=64k,mode=1777"]);
    let said = docker.run(&run).success();
    let lines = said.lines().map(|line| line.rsplit_once(' ').expect("a fault and its error"));
    lines.map(|(fault, errno)| (fault.to_owned(), errno.to_owned())).collect()
}

/// Compares a guest with the native program; returns the unlisted differences, and the rows without
/// a difference.
fn compare(
    form: &str,
    native: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Vec<String> {
    let engine = engine();
    let subject = [engine.as_str(), form];
    let mut rows: Vec<_> =
        DIFFERENCES.iter().filter(|row| row.subjects.contains(&subject)).collect();
    let mut wrong = Vec::new();
    for (fault, native) in native {
        let ours = ours.get(fault).map_or("nothing", String::as_str);
        let row = rows.iter().position(|row| row.fault == fault).map(|at| rows.remove(at));
        let expected = row.map_or(native.as_str(), |row| row.ours);
        if ours != expected || row.is_some_and(|row| row.native != native) {
            wrong.push(format!("{fault}: native {native}, {form} {ours}"));
        }
    }
    wrong.extend(rows.iter().map(|row| format!("{}: the fault is missing", row.fault)));
    wrong
}

fn a_guest_gets_the_error_numbers_of_a_native_program(docker: &Docker) {
    let native = faults(docker, RUNC, "/faults");
    assert!(native.len() >= FAULTS, "{native:#?}");
    let mut forms = vec![("module", "/faults.wasm")];
    forms.extend(can(Capability::Components).then_some(("component", "/faults.component.wasm")));
    let compared = forms
        .into_iter()
        .flat_map(|(form, program)| compare(form, &native, &faults(docker, &runtime(), program)));
    let wrong: Vec<String> = compared.collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

tests_in!(
    docker_28,
    Docker::shared(DockerVersion::V28),
    a_guest_gets_the_error_numbers_of_a_native_program
);
