//! Tests of WAMR's executable beyond the conformance suite.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use wherry_engine::{Code, Engine, Guest};
use wherry_wamr::Wamr;

const WASI: &str = "wasi_snapshot_preview1";

fn run(options: &[&str], stdin: Stdio, fields: &str) -> Output {
    let text = format!(
        r#"(module
             (import "{WASI}" "proc_exit" (func $exit (param i32)))
             (import "{WASI}" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
             (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
             (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
             {fields})"#
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wherry-wamr"));
    command.arg("run").args(options).arg(file).stdin(stdin).output().unwrap()
}

/// Expects that a module of these fields is refused, with these words.
fn refused(fields: &str, words: &[&str]) {
    let ended = run(&[], Stdio::null(), fields);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn a_component_is_refused_with_who_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::write(&file, wat::parse_str("(component)").unwrap()).unwrap();
    let host = env!("CARGO_BIN_EXE_wherry-wamr");
    let ended = Command::new(host).arg("run").arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("component") && said.contains("io.containerd.wasmtime.v1"), "{said}");
}

#[test]
fn what_is_imported_besides_functions_is_named() {
    let own = r#"(memory (export "memory") 1)"#;
    for (import, memory) in [
        ("(global i32)", own),
        ("(table 1 funcref)", own),
        ("(memory 1)", r#"(export "memory" (memory 0))"#),
    ] {
        let fields =
            format!(r#"(import "env" "thing" {import}) {memory} (func (export "_start"))"#);
        refused(&fields, &["missing import env::thing"]);
    }
}

#[test]
fn what_wamr_has_not_is_said() {
    let fields = r#"(memory (export "memory") 1)
        (func (export "_start") (drop (v128.const i32x4 0 0 0 0)))"#;
    refused(
        fields,
        &["it uses SIMD, which WAMR does not support: the runtime io.containerd.wasmtime.v1"],
    );
}

#[test]
fn without_a_network_there_are_no_sockets() {
    for (name, parameters) in
        [("sock_open", "i32 i32 i32 i32"), ("sock_addr_resolve", "i32 i32 i32 i32 i32 i32")]
    {
        let fields = format!(
            r#"(import "{WASI}" "{name}" (func (param {parameters}) (result i32)))
               (memory (export "memory") 1) (func (export "_start"))"#
        );
        refused(&fields, &[name, "no network"]);
        let ended = run(&["--net"], Stdio::null(), &fields);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}

#[test]
fn with_a_network_a_socket_reaches_the_loopback() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let [low, high] = listener.local_addr().unwrap().port().to_le_bytes();
    // At 16 an address: its kind, 127.0.0.1, and the port in the processor's order.
    let fields = format!(
        r#"(import "{WASI}" "sock_open" (func $open (param i32 i32 i32 i32) (result i32)))
           (import "{WASI}" "sock_connect" (func $connect (param i32 i32) (result i32)))
           (memory (export "memory") 1)
           (data (i32.const 16) "\00\00\00\00\7f\00\00\01\{low:02x}\{high:02x}")
           (data (i32.const 64) "\48\00\00\00\04\00\00\00ping")
           (func $check (param i32)
             (if (local.get 0) (then (call $exit (local.get 0)))))
           (func (export "_start")
             (call $check (call $open (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)))
             (call $check (call $connect (i32.load (i32.const 0)) (i32.const 16)))
             (call $check
               (call $write (i32.load (i32.const 0)) (i32.const 64) (i32.const 1) (i32.const 8)))
             (call $check
               (call $read (i32.load (i32.const 0)) (i32.const 64) (i32.const 1) (i32.const 8)))
             (call $check
               (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8))))"#
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).unwrap();
        stream.write_all(if &ping == b"ping" { b"pong" } else { b"what" }).unwrap();
    });
    let ended = run(&["--net"], Stdio::null(), &fields);
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), &b"pong"[..]), "{ended:?}");
}

#[test]
fn null_is_no_terminal() {
    let fields = r#"(memory (export "memory") 1)
        (func (export "_start")
          (if (call $fdstat (i32.const 0) (i32.const 0)) (then unreachable))
          (call $exit (i32.load8_u (i32.const 0))))"#;
    let ended = run(&[], File::open("/dev/null").unwrap().into(), fields);
    assert_ne!(ended.status.code(), Some(2), "{ended:?}");
}

/// A function that calls itself as often as its parameter says.
const DEEP: &str = r#"(memory (export "memory") 1)
    (func $deep (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
        (else (i32.const 0))))"#;

#[test]
fn functions_may_call_each_other_deeply() {
    let start = r#"(func (export "_start") (call $exit (call $deep (i32.const 5003))))"#;
    let ended = run(&[], Stdio::null(), &format!("{DEEP} {start}"));
    assert_eq!(ended.status.code(), Some(5003 % 256), "{ended:?}");
}

#[test]
fn a_trap_before_the_first_call_is_a_trap() {
    let fields = r#"(memory (export "memory") 1) (func $fault unreachable) (start $fault)
        (func (export "_start"))"#;
    let ended = run(&[], Stdio::null(), fields);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(134) && said.contains("unreachable"), "{ended:?}");
}

#[test]
fn memory_that_cannot_be_had_is_told_to_the_guest_alone() {
    // Often, so that what WAMR says of it would be too much to be kept.
    let fields = r#"(memory (export "memory") 1)
        (func (export "_start") (local $i i32)
          (loop $again
            (if (i32.ne (memory.grow (i32.const 32768)) (i32.const -1)) (then unreachable))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000)))))"#;
    let text = format!(r#"(module (import "{WASI}" "proc_exit" (func (param i32))) {fields})"#);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    let limited = format!("ulimit -v 1000000; exec \"$0\" run {}", file.display());
    let host = env!("CARGO_BIN_EXE_wherry-wamr");
    let ended = Command::new("sh").args(["-c", &limited, host]).output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(0), 0), "{ended:?}");
    assert_eq!(ended.stderr, b"", "{ended:?}");
}

#[test]
fn text_is_loaded_too() {
    let wamr = Wamr::new().unwrap();
    let load = |text: &str| wamr.load(Code::Wasm(text.into()), Guest::default());
    assert!(load(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).is_ok());
    let refusal = load("(module\n  (func $f (bogus)))\n").err().unwrap().to_string();
    assert!(refusal.contains("(bogus)") && !refusal.contains('\n'), "{refusal}");
}
