//! `wherry image` without a store and without a registry.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn wherry(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wherry"))
        .args(line.split(' '))
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap()
}

fn json(folder: &Path, line: &str) -> Value {
    let output = wherry(folder, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(folder: &Path, line: &str) -> String {
    let output = wherry(folder, line);
    assert_eq!(output.status.code(), Some(1), "{line}");
    String::from_utf8(output.stderr).unwrap()
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("app.wasm"), MODULE).unwrap();
    folder
}

#[test]
fn every_destination_has_the_same_image() {
    let folder = folder();
    let build = "image build app.wasm -t app:1 --label a=b --env C=d --json --to";
    let archive = json(folder.path(), &format!("{build} app.tar"));
    let layout = json(folder.path(), &format!("{build} ./layout"));
    assert_eq!(archive["digest"], layout["digest"]);
    assert_eq!(archive["name"], "docker.io/library/app:1");
    let output =
        wherry(folder.path(), "image build app.wasm -t app:1 --label a=b --env C=d --to -");
    assert_eq!(output.stdout, fs::read(folder.path().join("app.tar")).unwrap());
    for source in ["app.tar", "./layout"] {
        let described = json(folder.path(), &format!("image inspect {source} --json"));
        assert_eq!(described["digest"], archive["digest"]);
        assert_eq!(described["command"][0], "/app.wasm");
        assert_eq!(described["module"]["kind"], "core module");
    }
}

#[test]
fn an_artifact_survives_the_conversion_there_and_back() {
    let folder = folder();
    let made = json(folder.path(), "image build app.wasm -t app:1 --artifact --json --to ./a");
    json(folder.path(), "image convert ./a --json --to image.tar");
    let back = json(folder.path(), "image convert image.tar --artifact --json --to ./b");
    assert_eq!(made["digest"], back["digest"]);
    let described = json(folder.path(), "image inspect ./b --json");
    assert_eq!(described["kind"], "artifact");
    assert_eq!(described["config"]["os"], "wasip1");
    let text = refusal(folder.path(), "image convert image.tar --to x.tar");
    assert!(text.contains("it is an ordinary image"), "{text}");
}

#[test]
fn a_layout_has_several_images() {
    let folder = folder();
    let first = json(folder.path(), "image build app.wasm -t one:1 --json --to ./layout");
    let second = json(folder.path(), "image build app.wasm -t two:1 -e A=b --json --to ./layout");
    assert_ne!(first["digest"], second["digest"]);
    let text = refusal(folder.path(), "image inspect ./layout");
    assert!(text.contains("it has 2 images, name one"), "{text}");
}

#[test]
fn bad_input_is_one_sentence() {
    let folder = folder();
    fs::write(folder.path().join("text.wat"), "(module)").unwrap();
    fs::write(folder.path().join("half.wasm"), b"\0asm\x01\0\0\0\0\x50").unwrap();
    for (line, expected) in [
        ("image build no.wasm -t a", "no.wasm: no such file or directory"),
        ("image build text.wat -t a", "text.wat: it is not WebAssembly"),
        ("image build half.wasm -t a", "half.wasm: /half.wasm: cut off"),
        ("image build app.wasm -t A", "invalid image name \"A\""),
        ("image inspect text.wat", "text.wat: it is neither WebAssembly nor a tar archive"),
        ("image convert app.wasm --to x.tar", "app.wasm: it is WebAssembly, not an image"),
        ("image build app.wasm -t a --to no/such/x.tar", "no/such: cannot write to it"),
    ] {
        let text = refusal(folder.path(), line);
        assert!(text.starts_with(&format!("wherry: {expected}")), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_wherry"))
        .args(["image", "build", "app.wasm", "-t", "a", "--to", "a.tar"])
        .current_dir(folder.path())
        .env("SOURCE_DATE_EPOCH", "yesterday")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("SOURCE_DATE_EPOCH is \"yesterday\""));
}
