//! Plug-ins of an engine, named in the runtime options.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use wherry_e2e::images::{app, binary};
use wherry_e2e::on_docker_versions;
use wherry_testing::{Daemon, Docker, DockerVersion, Image, Run, engine, runtime};

/// A guest that exits with the plug-in's answer, 42.
fn asks() -> Image {
    app(
        "asks",
        binary(
            r#"(module
                 (import "wherry_test" "answer" (func $answer (result i32)))
                 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                 (memory (export "memory") 1)
                 (func (export "_start") (call $exit (call $answer))))"#,
        ),
    )
}

/// Compiles the plug-in of the engine's tests into a folder.
fn build(folder: &Path) -> PathBuf {
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shims").join(engine());
    let said = Command::new(shim.join("setup.sh")).arg("env").output().expect("it has a setup.sh");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let include = said.lines().find_map(|line| line.strip_prefix("WASMEDGE_INCLUDE_DIR="));
    let plugin = folder.join("libplugin.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-I", include.expect("the headers are there"), "-o"]);
    let status = command.arg(&plugin).arg(shim.join("tests/plugin.c")).status();
    assert!(status.expect("there is a C compiler").success());
    plugin
}

fn plugins_are_there_where_the_options_name_them(version: DockerVersion) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let empty = tempfile::TempDir::new().expect("a temporary folder");
    let plugin = build(folder.path());
    let options = tempfile::TempDir::new().expect("a temporary folder");
    let named = |name: &str, path: &Path| -> Value {
        let file = options.path().join(name);
        fs::write(&file, format!("Plugins = {path:?}\n")).expect("it is writable");
        let options = json!({"TypeUrl": format!("{}.options", engine()), "ConfigPath": file});
        json!({"runtimeType": runtime(), "options": options})
    };
    let docker = Docker::start_with(
        version,
        json!({"runtimes": {
            "none": {"runtimeType": runtime()},
            "file": named("file", &plugin),
            "folder": named("folder", folder.path()),
            "empty": named("empty", empty.path()),
            "missing": named("missing", Path::new("/no/such")),
        }}),
    );
    let run = |name: &str| docker.run(&Run::new(&asks()).runtime(name));
    for name in ["file", "folder"] {
        assert_eq!(run(name).code, 42, "{name}");
    }
    for (name, path, cause) in [
        ("none", "/app.wasm", "wherry_test::answer"),
        ("empty", &*empty.path().display().to_string(), "no plug-in was found"),
        ("missing", "/no/such", "No such file or directory"),
    ] {
        let outcome = run(name);
        assert!(outcome.code == 125 || outcome.code == 126, "{name}: {outcome}");
        assert!(outcome.err().contains(path) && outcome.err().contains(cause), "{outcome}");
    }
}

on_docker_versions!(version => version; plugins_are_there_where_the_options_name_them);
