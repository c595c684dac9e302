//! A mistake is one clear sentence in the client's output, and leaves nothing behind.

use std::process::Command;
use wherry_e2e::images::{app, binary, hello, hello_fields, hello_wasm, text};
use wherry_e2e::{on_all_daemons, on_own_daemons};
use wherry_testing::{Daemon, Image, Leftovers, Run, bin_dir, busybox, engine};

/// Runs an invalid container, and asserts that the client prints every one of `words` and no more
/// than a sentence about the fault. Docker's exit code is 125, or 126 or 127 by the fault.
#[track_caller]
fn refused(daemon: &dyn Daemon, run: &Run, docker_code: i32, words: &[&str]) {
    let outcome = daemon.run(run);
    let said = outcome.failure();
    for word in words {
        assert!(said.contains(word), "'{word}' is not in what the client says: {outcome}");
    }
    assert!(
        said.lines().filter(|line| !line.trim().is_empty()).count() <= 3,
        "more than a sentence: {outcome}"
    );
    if daemon.is_docker() {
        assert_eq!(outcome.code, docker_code, "{outcome}");
    }
}

fn a_missing_entrypoint_is_named(daemon: &dyn Daemon) {
    let image = Image::new("gone").file("/other", 0o644, "x").entrypoint(&["/app.wasm"]);
    refused(daemon, &Run::new(&image), 127, &["/app.wasm", "no such file or directory"]);
}

fn a_name_that_is_nowhere_in_path_is_named(daemon: &dyn Daemon) {
    let image = Image::new("nowhere")
        .file("/other", 0o644, "x")
        .entrypoint(&["app.wasm"])
        .env("PATH", "/bin");
    refused(daemon, &Run::new(&image), 127, &["app.wasm", "executable file not found", "/bin"]);
}

fn an_empty_entrypoint_is_said(daemon: &dyn Daemon) {
    let image = app("empty", hello_wasm()).entrypoint(&[""]);
    // Docker treats it as an image without an entrypoint, and calls no runtime.
    let words = if daemon.is_docker() { "o command specified" } else { "no entrypoint" };
    refused(daemon, &Run::new(&image), 125, &[words]);
}

fn what_is_neither_wasm_nor_native_is_said(daemon: &dyn Daemon) {
    let image = app("text", "this is just a note\n");
    refused(daemon, &Run::new(&image), 126, &["/app.wasm"]);
}

fn a_device_is_no_program(daemon: &dyn Daemon) {
    let image = app("device", hello_wasm()).entrypoint(&["/dev/zero"]);
    refused(daemon, &Run::new(&image), 126, &["/dev/zero", "not a regular file"]);
}

fn an_empty_file_is_said(daemon: &dyn Daemon) {
    refused(daemon, &Run::new(&app("nothing", "")), 126, &["/app.wasm"]);
}

fn a_truncated_module_is_said_with_the_offset(daemon: &dyn Daemon) {
    let whole = hello_wasm();
    let image = app("truncated", &whole[..whole.len() / 2]);
    refused(daemon, &Run::new(&image), 125, &["invalid WebAssembly", "offset 0x"]);
}

fn an_invalid_module_is_said_with_the_offset(daemon: &dyn Daemon) {
    let wrong = r#"(module (func (export "_start") (drop (i32.add (i32.const 1) (i64.const 2)))))"#;
    refused(
        daemon,
        &Run::new(&app("invalid", binary(wrong))),
        125,
        &["invalid WebAssembly", "offset 0x"],
    );
}

fn wrong_text_is_said_with_the_line(daemon: &dyn Daemon) {
    let image = Image::new("wrong-text").file("/app.wat", 0o755, "(module\n  (func $f (bogus)))\n");
    refused(daemon, &Run::new(&image.entrypoint(&["/app.wat"])), 125, &["bogus"]);
}

fn a_missing_import_is_named(daemon: &dyn Daemon) {
    let wasm = binary(
        r#"(module (import "env" "launch_rocket" (func $f)) (memory (export "memory") 1)
             (func (export "_start") (call $f)))"#,
    );
    refused(daemon, &Run::new(&app("import", wasm)), 125, &["env", "launch_rocket"]);
}

fn a_missing_function_is_named_with_those_there_are(daemon: &dyn Daemon) {
    let wasm =
        binary(&text(&(hello_fields("greet") + &hello_fields("_start").replace("1024", "2048"))));
    let image = app("function", wasm).entrypoint(&["/app.wasm#nope"]);
    refused(daemon, &Run::new(&image), 125, &["nope", "greet", "_start"]);
}

fn a_module_with_nothing_to_run_is_said(daemon: &dyn Daemon) {
    let wasm = binary(&text(&hello_fields("greet")));
    refused(daemon, &Run::new(&app("no-start", wasm)), 125, &["_start", "greet"]);
}

fn a_component_with_nothing_to_run_is_said(daemon: &dyn Daemon) {
    refused(daemon, &Run::new(&app("no-run", binary("(component)"))), 125, &["wasi:cli/run"]);
}

fn a_compiled_file_from_an_image_is_never_loaded(daemon: &dyn Daemon) {
    // The output of the engine's compiler is an ELF file, too. It must be taken neither for native
    // code nor for compiled code of ours: its origin is unknown.
    let image = Image::new("compiled")
        .file("/app.cwasm", 0o755, compiled(&hello_wasm()))
        .entrypoint(&["/app.cwasm"]);
    refused(daemon, &Run::new(&image), 126, &["/app.cwasm"]);
}

/// The output of the engine's compiler for a module, from a private cache.
fn compiled(wasm: &[u8]) -> Vec<u8> {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let (file, cache) = (folder.path().join("app.wasm"), folder.path().join("cache"));
    std::fs::write(&file, wasm).expect("it is writable");
    let mut command = Command::new(bin_dir().join(format!("wherry-{}", engine())));
    let output = command.arg("compile").arg(&file).env("WHERRY_CACHE_DIR", &cache).output();
    let output = output.expect("the engine's host runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The other files there are empty.
    let files = std::fs::read_dir(&cache).expect("it was made").flatten();
    let code = files.max_by_key(|file| {
        file.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len())
    });
    let code = std::fs::read(code.expect("the code").path()).expect("it is readable");
    assert!(code.len() > wasm.len(), "{} bytes of code", code.len());
    code
}

fn a_library_in_an_image_is_never_loaded(daemon: &dyn Daemon) {
    // The C library would load it to look up the user's home, or the address of a host.
    let image = Image::new("library")
        .file("/app.wasm", 0o644, hello_wasm())
        .file("/etc/nsswitch.conf", 0o644, "passwd: stranger\nhosts: stranger\n")
        .file("/etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n")
        .file("/lib/libnss_stranger.so.2", 0o755, ending_library())
        .entrypoint(&["/app.wasm"]);
    assert_eq!(daemon.run(&Run::new(&image)).success(), "hello\n");
}

/// A library that ends the process that loads it.
fn ending_library() -> Vec<u8> {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let (source, library) = (folder.path().join("end.c"), folder.path().join("end.so"));
    let text =
        "#include <unistd.h>\n__attribute__((constructor)) static void end(void) { _exit(77); }\n";
    std::fs::write(&source, text).expect("it is writable");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(status.expect("a C compiler").success());
    std::fs::read(&library).expect("it was made")
}

fn a_module_of_terabytes_is_refused_by_its_size(daemon: &dyn Daemon) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = std::fs::File::create(folder.path().join("app.wasm")).expect("ours");
    std::io::Write::write_all(&mut &file, b"\0asm\x01\0\0\0").expect("ours");
    file.set_len(1 << 42).expect("a filesystem with holes");
    let image = Image::new("sparse").file("/other", 0o644, "x").entrypoint(&["/v/app.wasm"]);
    let run = Run::new(&image).bind(folder.path(), "/v");
    refused(daemon, &run, 125, &["/v/app.wasm", "the module has 4.4 TB", "WHERRY_MODULE_SIZE"]);
}

fn a_native_file_without_permission_is_said(daemon: &dyn Daemon) {
    let image = busybox().file("/tool", 0o644, "#!/bin/sh\necho hello\n").entrypoint(&["/tool"]);
    refused(daemon, &Run::new(&image), 126, &["/tool", "permission denied"]);
}

on_all_daemons!(
    a_missing_entrypoint_is_named,
    a_name_that_is_nowhere_in_path_is_named,
    an_empty_entrypoint_is_said,
    what_is_neither_wasm_nor_native_is_said,
    a_device_is_no_program,
    an_empty_file_is_said,
    a_truncated_module_is_said_with_the_offset,
    an_invalid_module_is_said_with_the_offset,
    wrong_text_is_said_with_the_line,
    a_missing_import_is_named,
    a_missing_function_is_named_with_those_there_are,
    a_module_with_nothing_to_run_is_said,
    a_component_with_nothing_to_run_is_said,
    a_compiled_file_from_an_image_is_never_loaded,
    a_library_in_an_image_is_never_loaded,
    a_module_of_terabytes_is_refused_by_its_size,
    a_native_file_without_permission_is_said,
);

mod own {
    use super::*;
    use wherry_testing::{Containerd, ContainerdVersion};

    fn a_failed_start_leaves_nothing_behind(daemon: &dyn Daemon) {
        // Both images are unpacked before the snapshot, because unpacking leaves files.
        daemon.run(&Run::new(&hello())).success();
        let gone = Image::new("gone").file("/other", 0o644, "x").entrypoint(&["/app.wasm"]);
        let invalid = app("invalid-too", &hello_wasm()[..40]);
        daemon.load(&gone.pack());
        daemon.load(&invalid.pack());
        let leftovers = Leftovers::snapshot(daemon);
        daemon.run(&Run::new(&gone)).failure();
        daemon.run(&Run::new(&invalid)).failure();
        assert!(daemon.try_start(&Run::new(&invalid)).is_err());
        leftovers.assert_none_new();
        // A valid image still runs.
        assert_eq!(daemon.run(&Run::new(&hello())).success(), "hello\n");
    }

    on_own_daemons!(a_failed_start_leaves_nothing_behind);

    /// A full tmpfs. Dropping it unmounts it.
    struct Full(tempfile::TempDir);

    impl Full {
        fn new() -> Full {
            let dir = tempfile::TempDir::new().expect("a temporary folder");
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs"]).arg(dir.path());
            assert!(mount.status().is_ok_and(|status| status.success()), "mount");
            let error = std::fs::write(dir.path().join("filler"), vec![0; 1 << 20])
                .expect_err("it is small");
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            Full(dir)
        }
    }

    impl Drop for Full {
        fn drop(&mut self) {
            // A failing test may have mounted nothing.
            let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        }
    }

    /// A full disk under the compile cache costs speed, never a start.
    fn a_full_cache_stops_nobody(version: ContainerdVersion) {
        let full = Full::new();
        let cache = full.0.path().display().to_string();
        let containerd = Containerd::start_with(version, &[("WHERRY_CACHE_DIR", &cache)]);
        for _ in 0..2 {
            assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
        }
    }

    mod full_disk {
        wherry_e2e::tests_in!(containerd_1_6, ContainerdVersion::V1_6, cache);
        wherry_e2e::tests_in!(containerd_2, ContainerdVersion::V2, cache);

        fn cache(version: wherry_testing::ContainerdVersion) {
            super::a_full_cache_stops_nobody(version);
        }
    }
}
