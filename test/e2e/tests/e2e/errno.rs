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

use differences::{Difference, FILES, SOCKETS};

const RUNC: &str = "io.containerd.runc.v2";

/// The user of the container, who is not root.
const USER: u32 = 1234;

/// The number of faults of a program, at least.
const FILE_FAULTS: usize = 105;
const SOCKET_FAULTS: usize = 18;

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
        ("other", "unbound"),
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
    table(&docker.run(&run).success())
}

/// The error number of each fault, from the output of a program.
fn table(said: &str) -> BTreeMap<String, String> {
    let lines = said.lines().map(|line| line.rsplit_once(' ').expect("a fault and its error"));
    lines.map(|(fault, errno)| (fault.to_owned(), errno.to_owned())).collect()
}

/// Compares a guest with the native program; returns the differences that are not declared, and the
/// rows without a difference.
fn compare(
    declared: &[Difference],
    form: &str,
    native: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Vec<String> {
    let engine = engine();
    let subject = [engine.as_str(), form];
    let mut rows: Vec<_> = declared.iter().filter(|row| row.subjects.contains(&subject)).collect();
    let mut wrong = Vec::new();
    for (fault, native) in native {
        let ours = ours.get(fault).map_or("nothing", String::as_str);
        let row = rows.iter().position(|row| row.fault == fault).map(|at| rows.remove(at));
        let expected = row.map_or(native.as_str(), |row| row.ours);
        if ours != expected || row.is_some_and(|row| row.native != native) {
            let reason = row.map_or("", |row| row.reason);
            wrong.push(format!("{fault}: native {native}, {form} {ours} {reason}"));
        }
    }
    wrong.extend(rows.iter().map(|row| format!("{}: the fault is missing", row.fault)));
    wrong
}

fn a_guest_gets_the_error_numbers_of_files(docker: &Docker) {
    let native = faults(docker, RUNC, "/faults");
    assert!(native.len() >= FILE_FAULTS, "{native:#?}");
    let mut forms = vec![("module", "/faults.wasm")];
    forms.extend(can(Capability::Components).then_some(("component", "/faults.component.wasm")));
    let compared = forms.into_iter().flat_map(|(form, program)| {
        compare(FILES, form, &native, &faults(docker, &runtime(), program))
    });
    let wrong: Vec<String> = compared.collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

fn a_component_gets_the_error_numbers_of_sockets(docker: &Docker) {
    let image = Image::new("sockets")
        .file("/sockets", 0o755, guests::bytes("sockets.static"))
        .file("/sockets.wasm", 0o755, guests::bytes("sockets.component.wasm"));
    let run = |runtime: &str, program: &str| {
        let run = Run::new(&image).runtime(runtime).args(&[program]);
        table(&docker.run(&run.extra(&["--network", "none"])).success())
    };
    let native = run(RUNC, "/sockets");
    assert!(native.len() >= SOCKET_FAULTS, "{native:#?}");
    let wrong = compare(SOCKETS, "component", &native, &run(&runtime(), "/sockets.wasm"));
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

tests_in!(
    docker_28,
    Docker::shared(DockerVersion::V28),
    a_guest_gets_the_error_numbers_of_files,
    a_component_gets_the_error_numbers_of_sockets
);
