//! One program in several languages, built by the toolchains that people use: `test/guests/toolchains`.
//! It prints its arguments and a variable, opens files by relative and absolute paths and through an
//! absolute link, writes one, and exits with 7.

use wherry_e2e::images::app;
use wherry_e2e::tests_in;
use wherry_testing::{Capability, Daemon, Docker, Run, can, engine, guests};

/// Its output.
const LINES: [(&str, &str); 8] = [
    ("arguments", "one two words"),
    ("variable", "hello"),
    ("relative", "here"),
    ("below", "deep"),
    ("absolute", "there"),
    ("link", "there"),
    ("written", "written"),
    ("missing", "No such file or directory"),
];

/// Runs a form of the program, and compares the lines that its language has.
fn runs(docker: &Docker, guest: &str, code: i32, without: &[&str]) {
    let image = app(&guest.replace('.', "-"), guests::bytes(guest))
        .file("/work/here.txt", 0o644, "here")
        .file("/work/below/deep.txt", 0o644, "deep")
        .file("/data/there.txt", 0o644, "there")
        .link("/work/link.txt", "/data/there.txt")
        .workdir("/work")
        .env("GREETING", "hello");
    let outcome = docker.run(&Run::new(&image).args(&["one", "two words"]));
    let lines = LINES.iter().filter(|(name, _)| !without.contains(name));
    let lines = lines.map(|(name, value)| match (*name, engine().as_str()) {
        // docs/paths.md: WasmEdge follows no link out of the directory of a path.
        ("link", "wasmedge") => "link: Operation not permitted\n".to_owned(),
        _ => format!("{name}: {value}\n"),
    });
    assert_eq!(outcome.out(), lines.collect::<String>(), "{guest}: {outcome}");
    assert_eq!(outcome.code, code, "{guest}: {outcome}");
}

/// Runs the module, and the component that the adapter for preview 1 makes of it. Preview 2 has no
/// exit codes but 0 and 1.
fn runs_in_both_forms(docker: &Docker, guest: &str) {
    runs(docker, &format!("{guest}.wasm"), 7, &[]);
    if can(Capability::Components) {
        runs(docker, &format!("{guest}.component.wasm"), 1, &[]);
    }
}

fn a_guest_of_clang_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-c");
}

fn a_guest_of_rustc_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-rust");
}

fn a_guest_of_go_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-go");
}

fn a_guest_of_zig_has_its_world(docker: &Docker) {
    runs(docker, "world-zig.wasm", 7, &[]);
}

fn a_guest_of_assemblyscript_has_its_world(docker: &Docker) {
    runs(docker, "world-assemblyscript.wasm", 7, &["absolute"]);
}

tests_in!(
    docker_28,
    Docker::shared(DockerVersion::V28),
    a_guest_of_clang_has_its_world,
    a_guest_of_rustc_has_its_world,
    a_guest_of_go_has_its_world,
    a_guest_of_zig_has_its_world,
    a_guest_of_assemblyscript_has_its_world
);
