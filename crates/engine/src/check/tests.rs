//! Tests of the check with modules and components in the text format.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used)]

use super::*;

fn run(features: WasmFeatures, text: &str, function: Option<&str>) -> Result<(), String> {
    let support = Support {
        engine: "E",
        features,
        provides: &|module, name| module == preview1::MODULE && preview1::function(name).is_some(),
        provided: preview1::MODULE,
    };
    let wasm = wat::parse_str(text).unwrap();
    let start = Start { function: function.map(str::to_owned), ..Start::default() };
    check(&wasm, &support, Some(&start)).map_err(|error| error.to_string())
}

fn refusal(features: WasmFeatures, text: &str) -> String {
    run(features, text, None).unwrap_err()
}

const ALL: WasmFeatures = features::WASMTIME;
const START: &str = r#"(func (export "_start"))"#;

#[test]
fn all_missing_imports_are_named() {
    let text = format!(
        r#"(module (import "env" "a" (func)) (import "wasi_snapshot_preview1" "b" (func))
             (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
             (import "env" "memory" (memory 1)) {START})"#
    );
    assert_eq!(
        refusal(ALL, &text),
        "missing imports env::a, wasi_snapshot_preview1::b, env::memory: this runtime provides \
         wasi_snapshot_preview1"
    );
    let component = r#"(component (import "wasi:keyvalue/store@0.2.0" (instance (export "f" (func))))
        (import "wasi:cli/stdin@0.2.3" (instance)) (import "f" (func)))"#;
    assert_eq!(
        refusal(ALL, component),
        "missing imports wasi:keyvalue/store@0.2.0, f: this runtime provides wasi:cli, wasi:clocks, \
         wasi:filesystem, wasi:http, wasi:io, wasi:random, wasi:sockets of WASI 0.2"
    );
}

#[test]
fn imports_of_plugins_are_not_missing() {
    let wasm = wat::parse_str(format!(r#"(module (import "p" "f" (func)) {START})"#)).unwrap();
    let support = Support { engine: "E", features: ALL, provides: &|_, _| false, provided: "" };
    let start = |modules: &[&str]| Start {
        plugin_modules: modules.iter().map(|&name| name.to_owned()).collect(),
        ..Start::default()
    };
    assert!(check(&wasm, &support, Some(&start(&["p"]))).is_ok());
    assert!(check(&wasm, &support, Some(&start(&["q"]))).is_err());
    assert!(check(&wasm, &support, None).is_ok());
}

#[test]
fn a_wrong_type_of_an_import_is_named_with_the_right_one() {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) {START})"#
    );
    assert_eq!(
        refusal(ALL, &text),
        "import wasi_snapshot_preview1::proc_exit has the type (i64), but WASI defines (i32)"
    );
}

#[test]
fn an_unsupported_feature_is_named() {
    for (fields, feature) in [
        ("(func (drop (v128.const i32x4 0 0 0 0)))", "SIMD"),
        ("(memory 1) (memory 1)", "multiple memories"),
        ("(memory i64 1)", "memory64"),
        ("(memory 1 1 shared)", "threads"),
        ("(tag)", "exceptions"),
        ("(type (struct))", "garbage collection"),
    ] {
        let error = refusal(features::WAMR, &format!("(module {fields} {START})"));
        assert!(error.starts_with(&format!("it uses {feature}")), "{error}");
        assert!(error.contains("which E does not support"), "{error}");
    }
    let future = r#"(component (type (future u32)) (import "f" (func (param "a" 0))))"#;
    assert!(
        refusal(ALL, future).contains("streams or futures (WASI 0.3)"),
        "{}",
        refusal(ALL, future)
    );
    assert!(refusal(features::WAMR, "(component)").contains("io.containerd.wasmtime.v1"));
}

#[test]
fn an_invalid_module_is_refused_with_the_offset() {
    let text = format!("(module (func (drop (i32.add (i32.const 1) (i64.const 2)))) {START})");
    let error = refusal(ALL, &text);
    assert!(error.starts_with("invalid WebAssembly: type mismatch"), "{error}");
    assert!(error.contains("(at offset 0x"), "{error}");
    // Also where an unsupported feature comes first.
    let text = format!(
        "(module (memory i64 1) (func (drop (i32.add (i32.const 1) (i64.const 2)))) {START})"
    );
    let error = refusal(features::WAMR, &text);
    assert!(error.starts_with("invalid WebAssembly: type mismatch"), "{error}");
}

#[test]
fn exports_are_listed_whatever_their_type() {
    let module = r#"(module (memory (export "memory") 1)
        (func (export "add") (param i32 i32) (result i32) (i32.const 0)))"#;
    assert_eq!(
        refusal(ALL, module),
        "nothing to run: it does not export _start; it exports memory (memory), \
         add(i32, i32) -> i32; a container can call only a function without parameters, and it \
         exports none"
    );
    assert!(run(ALL, module, Some("add")).unwrap_err().starts_with("cannot call add(i32, i32)"));
    let component = r#"(component
        (core module $m (func (export "add") (param i32 i32) (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
        (instance $r (export "add" (func $add)))
        (export "acme:calc/api@1.0.0" (instance $r)))"#;
    let error = refusal(ALL, component);
    assert!(
        error.contains(
            "does not export wasi:cli/run@0.2 or wasi:http/incoming-handler@0.2; \
             it exports acme:calc/api@1.0.0#add(a, b); "
        ),
        "{error}"
    );
}

#[test]
fn only_version_0_2_of_run_is_run() {
    let text = |version: &str| {
        format!(
            r#"(component (core module $m (func (export "run") (result i32) (i32.const 0)))
                 (core instance $i (instantiate $m))
                 (func $run (result (result)) (canon lift (core func $i "run")))
                 (instance $r (export "run" (func $run)))
                 (export "wasi:cli/run@{version}" (instance $r)))"#
        )
    };
    assert_eq!(run(ALL, &text("0.2.6"), None), Ok(()));
    for version in ["0.3.0", "1.0.0"] {
        let error = refusal(ALL, &text(version));
        assert!(error.contains(&format!("(wasi:cli/run@{version} is another version)")), "{error}");
    }
}
