//! One program in several languages, built by their toolchains: `test/guests/toolchains`.
//!
//! It prints its arguments and a variable, opens files by relative and absolute paths and through
//! an absolute link, writes one, and exits with 7.

use wherry_e2e::images::app;
use wherry_e2e::tests_in;
use wherry_testing::{Capability, Daemon, Docker, Outcome, Run, can, engine, guests};

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

/// Runs a form of the program. `except` has the lines that differ in this language: their values,
/// or nothing for lines that are missing.
fn runs(docker: &Docker, guest: &str, code: i32, except: &[(&str, Option<&str>)]) {
    let outcome = start(docker, guest);
    let lines = LINES.iter().filter_map(|(name, value)| {
        let other = except.iter().find(|(line, _)| line == name);
        Some(format!("{name}: {}\n", other.map_or(Some(*value), |(_, value)| *value)?))
    });
    assert_eq!(outcome.out(), lines.collect::<String>(), "{guest}: {outcome}");
    assert_eq!(outcome.code, code, "{guest}: {outcome}");
}

fn start(docker: &Docker, guest: &str) -> Outcome {
    let image = app(&guest.replace('.', "-"), guests::bytes(guest))
        .file("/work/here.txt", 0o644, "here")
        .file("/work/below/deep.txt", 0o644, "deep")
        .file("/data/there.txt", 0o644, "there")
        .link("/work/link.txt", "/data/there.txt")
        .workdir("/work")
        .env("GREETING", "hello");
    docker.run(&Run::new(&image).args(&["one", "two words"]))
}

/// The line `link` where WasmEdge follows no link out of the directory at which a path begins: see
/// docs/paths.md.
fn link(wasmedge: &'static str) -> Vec<(&'static str, Option<&'static str>)> {
    if engine() == "wasmedge" { vec![("link", Some(wasmedge))] } else { Vec::new() }
}

/// Runs the module, and the component that the adapter for preview 1 makes of it. Preview 2 has no
/// exit codes but 0 and 1.
fn runs_in_both_forms(docker: &Docker, guest: &str, except: &[(&str, Option<&str>)]) {
    runs(docker, &format!("{guest}.wasm"), 7, except);
    if can(Capability::Components) {
        runs(docker, &format!("{guest}.component.wasm"), 1, except);
    }
}

fn a_guest_of_clang_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-c", &link("Operation not permitted"));
}

fn a_guest_of_rustc_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-rust", &link("Operation not permitted"));
}

fn a_guest_of_go_has_its_world(docker: &Docker) {
    runs_in_both_forms(docker, "world-go", &[]);
}

fn a_guest_of_zig_has_its_world(docker: &Docker) {
    if engine() == "wasmedge" {
        // It has two directories of one name: see docs/paths.md.
        let outcome = start(docker, "world-zig.wasm");
        assert!(outcome.failure().contains("reached unreachable code"), "{outcome}");
        return;
    }
    // Zig's standard library follows no link that is the last part of a path.
    runs(docker, "world-zig.wasm", 7, &[("link", Some("SymLinkLoop"))]);
}

fn a_guest_of_assemblyscript_has_its_world(docker: &Docker) {
    let mut except = link("No such file or directory");
    except.push(("absolute", None));
    runs(docker, "world-assemblyscript.wasm", 7, &except);
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
