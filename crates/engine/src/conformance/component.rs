//! Components of WASI preview 2.

use std::fs;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::wat::{CAT, encode, module};
use super::{Host, host::Guest};

/// A preview 1 guest as a component.
fn command<'a>(host: &'a Host, fields: &str) -> Guest<'a> {
    let component = ComponentEncoder::default()
        .module(&module(fields))
        .unwrap()
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .unwrap()
        .encode()
        .unwrap();
    host.file("guest.wasm", &component)
}

/// A component of a world in `wasi.wit`, from a whole core module in the text format.
pub(super) fn component<'a>(host: &'a Host, world: &str, text: &str) -> Guest<'a> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("wasi.wit", include_str!("wasi.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = encode(text);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let component = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    host.file("guest.wasm", &component)
}

/// A component that exports `succeed` and `fail`, which return success and failure.
fn library(host: &Host) -> Guest<'_> {
    component(
        host,
        "library",
        r#"(module (memory (export "memory") 1)
             (func (export "succeed") (result i32) (i32.const 0))
             (func (export "fail") (result i32) (i32.const 1)))"#,
    )
}

pub fn a_component_has_arguments_environment_and_streams(host: &Host) {
    let ended = command(host, CAT).run_with(b"through\0a component\xff");
    assert_eq!((ended.code, &*ended.stdout), (0, &b"through\0a component\xff"[..]));

    let ended = command(
        host,
        r#"(func (export "_start")
             (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $args_get (i32.const 65536) (i32.const 131072)))
             (call $print (i32.const 131072) (i32.load (i32.const 20)))
             (call $check (call $environ_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $environ_get (i32.const 65536) (i32.const 131072)))
             (call $check
               (call $write (i32.const 2) (i32.const 131072) (i32.load (i32.const 20)))))"#,
    )
    .env("B=2")
    .env("A=1")
    .arg("ünï")
    .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.ends_with("guest.wasm\0ünï\0".as_bytes()));
    assert_eq!(ended.stderr, "B=2\0A=1\0");
}

pub fn a_component_ends_with_its_exit_code(host: &Host) {
    assert_eq!(command(host, r#"(func (export "_start"))"#).run().code, 0);
    let ended = command(host, r#"(func (export "_start") (call $proc_exit (i32.const 1)))"#).run();
    assert_eq!((ended.code, &*ended.stderr), (1, ""));
}

pub fn a_component_that_returns_an_error_ends_with_1(host: &Host) {
    for code in [0, 1] {
        let text = format!(
            r#"(module (memory (export "memory") 1)
                 (func (export "wasi:cli/run@0.2.0#run") (result i32) (i32.const {code})))"#
        );
        let ended = component(host, "bare", &text).run();
        assert_eq!((ended.code, &*ended.stderr), (code, ""));
    }
}

pub fn a_component_that_traps_ends_with_134(host: &Host) {
    let ended = command(host, r#"(func (export "_start") (call $ready) unreachable)"#).run();
    assert_eq!((ended.code, &*ended.stdout), (134, &b"ready\n"[..]), "{}", ended.stderr);
    assert!(ended.stderr.contains("unreachable"), "{}", ended.stderr);
}

pub fn a_component_opens_files_in_its_working_directory(host: &Host) {
    let data = host.folder("data");
    fs::write(data.join("file"), "here").unwrap();
    // With the working directory there are two preopens, "." and "/data"; both hold the file.
    let ended = command(
        host,
        r#"(data (i32.const 1024) "file")
           (func (export "_start")
             (call $check (call $open (i32.const 4) (i32.const 1024) (i32.const 4) (i32.const 0)))
             (call $print (i32.const 65536)
               (call $read (call $fd) (i32.const 65536) (i32.const 100))))"#,
    )
    .dir(&data, "/data")
    .cwd("/data")
    .run();
    assert_eq!((ended.code, &*ended.stdout), (0, &b"here"[..]), "{}", ended.stderr);
}

pub fn a_component_is_told_its_working_directory(host: &Host) {
    let data = host.folder("data");
    // The answer: whether there is one, then where it lies and its length.
    let text = r#"(module
        (import "wasi:cli/environment@0.2.0" "initial-cwd" (func $cwd (param i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "wasi:cli/run@0.2.0#run") (result i32)
          (call $cwd (i32.const 16))
          (i32.eqz (i32.and
            (i32.and (i32.load8_u (i32.const 16)) (i32.eq (i32.load (i32.const 24)) (i32.const 5)))
            (i64.eq
              (i64.and (i64.load (i32.load (i32.const 20))) (i64.const 0xff_ffff_ffff))
              (i64.const 0x61_7461_642f))))))"#;
    let ended = component(host, "directory", text).dir(&data, "/data").cwd("/data").run();
    assert_eq!((ended.code, &*ended.stderr), (0, ""));
}

pub fn a_component_function_is_called_by_name(host: &Host) {
    assert_eq!(library(host).function("succeed").run().code, 0);
    assert_eq!(library(host).function("fail").run().code, 1);
    library(host).function("nope").refused(&["nope", "succeed", "fail"]);
}

pub fn a_component_without_run_is_refused(host: &Host) {
    library(host).refused(&["wasi:cli/run", "succeed", "fail"]);
}

pub fn a_component_with_a_missing_import_is_refused(host: &Host) {
    let text = r#"(component (import "acme:house/lamp@1.0.0" (instance (export "on" (func)))))"#;
    host.file("guest.wasm", &encode(text)).refused(&["missing import acme:house/lamp@1.0.0"]);
}

pub fn a_server_of_another_version_of_wasi_is_refused(host: &Host) {
    let text = r#"(component
        (core module $m (func (export "handle") (param i32)))
        (core instance $i (instantiate $m))
        (func $handle (param "request" u32) (canon lift (core func $i "handle")))
        (instance $h (export "handle" (func $handle)))
        (export "wasi:http/handler@0.3.0" (instance $h)))"#;
    host.file("guest.wasm", &encode(text))
        .refused(&["nothing to run", "wasi:http/handler@0.3.0 is another version"]);
}

pub fn a_component_of_a_library_is_refused_with_all_exports(host: &Host) {
    let text = r#"(component
        (core module $m (func (export "add") (param i32 i32) (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
        (instance $r (export "add" (func $add)))
        (export "acme:calc/api@1.0.0" (instance $r)))"#;
    host.file("guest.wasm", &encode(text)).refused(&["it exports acme:calc/api@1.0.0#add(a, b)"]);
}

pub fn a_component_of_another_version_of_wasi_is_refused(host: &Host) {
    for version in ["0.3.0", "1.0.0"] {
        let text = format!(
            r#"(component
                (core module $m (func (export "run") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $r (export "run" (func $run)))
                (export "wasi:cli/run@{version}" (instance $r)))"#
        );
        host.file("guest.wasm", &encode(&text))
            .refused(&["wasi:cli/run@0.2", &format!("wasi:cli/run@{version} is another version")]);
    }
}

pub fn a_component_with_streams_is_refused_with_the_feature(host: &Host) {
    let text = r#"(component (type $s (stream u8)) (import "f" (func (param "a" $s))))"#;
    host.file("guest.wasm", &encode(text)).refused(&["it uses asynchronous functions, streams"]);
}
