//! Tests of WasmEdge's executable beyond the conformance suite.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const HOST: &str = env!("CARGO_BIN_EXE_wherry-wasmedge");

const READY: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\06\00\00\00")
  (data (i32.const 16) "ready\n")
  (func $ready (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"#;

fn module(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {READY} {fields})")).unwrap()
}

fn file(folder: &Path, wasm: &[u8]) -> PathBuf {
    let path = folder.join("app.wasm");
    fs::write(&path, wasm).unwrap();
    path
}

fn run(wasm: &[u8]) -> Output {
    run_with(&[], wasm)
}

fn run_with(options: &[&str], wasm: &[u8]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(HOST);
    command.arg("run").args(options).arg(file(folder.path(), wasm)).output().unwrap()
}

#[test]
fn native_code_of_the_module_is_left_alone_and_the_module_runs() {
    let mut wasm = module(r#"(func (export "_start") (call $ready))"#);
    wasm.extend(b"\0\x29\x08wasmedge");
    wasm.extend([0xcc; 32]);
    let ended = run(&wasm);
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), &b"ready\n"[..]), "{ended:?}");
}

#[test]
fn a_component_is_refused_with_who_runs_it() {
    let ended = run(&wat::parse_str("(component)").unwrap());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("component") && said.contains("io.containerd.wasmtime.v1"), "{said}");
}

#[test]
fn a_guest_is_native_code_and_not_interpreted() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = module(r#"(func (export "_start") (call $ready) (loop $on (br $on)))"#);
    let mut child = Command::new(HOST)
        .arg("run")
        .arg(file(folder.path(), &wasm))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let executable = |line: &&str| line.contains("wherry-code") && line.contains("r-xp");
    assert_eq!(maps.lines().filter(executable).count(), 1, "{maps}");
}

#[test]
fn without_a_network_there_are_no_sockets() {
    for name in ["sock_open", "sock_open_v2"] {
        let wasm = wat::parse_str(format!(
            r#"(module
                 (import "wasi_snapshot_preview1" "{name}" (func (param i32 i32 i32) (result i32)))
                 (func (export "_start")))"#
        ));
        let ended = run(&wasm.unwrap());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains(name), "{said}");
    }
}

/// A guest that ends with what a plug-in answers.
fn asks() -> Vec<u8> {
    let text = r#"(module
        (import "wherry_test" "answer" (func $answer (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (call $answer))))"#;
    wat::parse_str(text).unwrap()
}

#[test]
#[cfg(not(feature = "bundled"))]
fn a_plugin_that_is_named_is_there_for_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("libplugin.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-I", env!("WASMEDGE_INCLUDE_DIR"), "-o"]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin.c");
    assert!(command.arg(&plugin).arg(source).status().unwrap().success());
    for named in [&plugin, folder.path()] {
        let ended = run_with(&["--plugins", named.to_str().unwrap()], &asks());
        assert_eq!(ended.status.code(), Some(42), "{ended:?}");
    }
}

#[test]
fn a_plugin_that_nobody_named_is_not() {
    let ended = run(&asks());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("wherry_test::answer"), "{said}");
}

#[test]
fn a_folder_without_plugins_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libplugin.so"), "not one").unwrap();
    let path = folder.path().to_str().unwrap();
    for (named, cause) in [(path, "no plug-in was found"), ("/no/such", "No such file")] {
        let ended = run_with(&["--plugins", named], &asks());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1));
        assert!(
            said.contains(named) && said.contains(cause) && said.lines().count() == 1,
            "{said}"
        );
    }
}
