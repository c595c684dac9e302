//! Entry functions, and the errors for guests that cannot run.

use super::wat::{encode, module};
use super::{Host, host::Guest};

const GREET: &str = r#"
  (global $initialised (mut i32) (i32.const 0))
  (data (i32.const 1024) "hello\n")
  (func (export "greet") (call $print (i32.const 1024) (i32.const 6)))
  (func (export "when_initialised")
    (if (global.get $initialised) (then (call $print (i32.const 1024) (i32.const 6)))))
"#;

fn says_hello(guest: &Guest<'_>) {
    let ended = guest.run();
    assert_eq!((ended.code, &*ended.stdout), (0, &b"hello\n"[..]), "{}", ended.stderr);
}

pub fn a_function_is_called_by_name(host: &Host) {
    says_hello(&host.guest(GREET).function("greet"));
    // A result is ignored.
    let answer = r#"(func (export "answer") (result i32) (i32.const 42))"#;
    assert_eq!(host.guest(answer).function("answer").run().code, 0);
}

pub fn a_reactor_is_initialised_first(host: &Host) {
    let initialise = r#"(func (export "_initialize") (global.set $initialised (i32.const 1)))"#;
    says_hello(&host.guest(&format!("{GREET}{initialise}")).function("when_initialised"));
}

pub fn text_is_run_too(host: &Host) {
    let text = format!(
        r#"(module {} (data (i32.const 1024) "hello\n")
             (func (export "_start") (call $print (i32.const 1024) (i32.const 6))))"#,
        super::wat::PRELUDE
    );
    says_hello(&host.file("guest.wat", text.as_bytes()));
}

pub fn a_missing_import_is_named(host: &Host) {
    let text = r#"(module (import "env" "missing" (func $missing)) (memory (export "memory") 1)
                    (func (export "_start") (call $missing)))"#;
    host.file("guest.wasm", &encode(text)).refused(&["env", "missing"]);
}

pub fn all_missing_imports_are_named(host: &Host) {
    let imports: String =
        (0..12).map(|number| format!(r#"(import "env" "f{number}" (func))"#)).collect();
    let text =
        format!(r#"(module {imports} (memory (export "memory") 1) (func (export "_start")))"#);
    host.file("guest.wasm", &encode(&text))
        .refused(&["missing imports env::f0, env::f1, ", "env::f9 and 2 more"]);
}

pub fn an_import_of_a_wrong_type_is_named_with_the_right_one(host: &Host) {
    let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64)))
                    (memory (export "memory") 1) (func (export "_start")))"#;
    host.file("guest.wasm", &encode(text))
        .refused(&["wasi_snapshot_preview1::proc_exit has the type (i64)", "defines (i32)"]);
}

pub fn a_feature_that_no_engine_has_is_named(host: &Host) {
    let text = r#"(module (memory (export "memory") 1 1 shared) (func (export "_start")))"#;
    host.file("guest.wasm", &encode(text))
        .refused(&["it uses threads (shared memory and atomics), which ", " does not support"]);
}

pub fn reference_types_are_supported(host: &Host) {
    let text = r#"(module (table 1 externref) (table 1 funcref) (memory (export "memory") 1)
                    (func (export "_start")
                      (table.set 0 (i32.const 0) (ref.null extern))
                      (if (i32.eqz (ref.is_null (table.get 0 (i32.const 0)))) (then unreachable))))"#;
    let ended = host.file("guest.wasm", &encode(text)).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

pub fn a_module_of_a_library_is_refused_with_all_exports(host: &Host) {
    let text = r#"(module (memory (export "memory") 1)
                    (func (export "add") (param i32 i32) (result i32) (i32.const 0)))"#;
    let guest = host.file("guest.wasm", &encode(text));
    guest.refused(&["does not export _start", "add(i32, i32) -> i32", "memory (memory)"]);
    guest.function("add").refused(&["cannot call add(i32, i32)", "takes parameters"]);
}

pub fn a_missing_function_is_named_with_those_there_are(host: &Host) {
    host.guest(GREET).function("nope").refused(&["nope", "greet"]);
}

pub fn a_module_without_start_is_refused(host: &Host) {
    host.guest(GREET).refused(&["_start", "greet"]);
}

pub fn an_invalid_module_is_refused_with_the_offset(host: &Host) {
    let text = r#"(module (func (export "_start") (drop (i32.add (i32.const 1) (i64.const 2)))))"#;
    host.file("guest.wasm", &encode(text)).refused(&["offset 0x"]);
}

pub fn a_truncated_module_is_refused(host: &Host) {
    let whole = module(r#"(func (export "_start"))"#);
    for length in [whole.len() - 1, whole.len() / 2, 9, 8, 5, 0] {
        host.file("guest.wasm", &whole[..length]).refused(&[]);
    }
}

pub fn what_is_not_wasm_is_refused(host: &Host) {
    host.file("guest.wasm", b"#!/bin/sh\necho hello\n").refused(&[]);
}

pub fn a_missing_file_is_127(host: &Host) {
    let guest = host.path("/nonexistent/guest.wasm".into());
    let ended = guest.run();
    assert_eq!(ended.code, 127, "{}", ended.stderr);
    assert!(ended.stderr.contains("/nonexistent/guest.wasm"), "{}", ended.stderr);
}
