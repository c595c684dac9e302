//! The program, as containerd runs it.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;

fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wherry-layer"))
        .args(args)
        .env("STREAM_PROCESSOR_MEDIATYPE", "application/wasm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // A program that refuses its input closes it.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[test]
fn a_module_becomes_the_file_of_an_archive() {
    let output = run(&["--path", "/bin/app"], b"\0asm\x01\0\0\0");
    assert!(output.status.success() && output.stderr.is_empty());
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    let paths: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(paths, ["bin", "bin/app"]);
}

#[test]
fn a_wrong_input_is_one_sentence_with_the_media_type() {
    let mut tar = vec![0; 10_240];
    tar[257..262].copy_from_slice(b"ustar");
    for (input, expected) in [
        (tar.as_slice(), "not WebAssembly but a tar archive"),
        (b"\0asm\x01\0\0\0\x00\x05", "cut off: at least 5 more bytes belong after offset 0xa"),
        (b"", "empty, not WebAssembly"),
    ] {
        let output = run(&[], input);
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(output.stdout.is_empty(), "{expected}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text, format!("wherry-layer: layer application/wasm: {expected}\n"));
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    assert_eq!(run(&["--wings"], b"").status.code(), Some(2));
    assert_eq!(run(&["--help"], b"").status.code(), Some(0));
}
