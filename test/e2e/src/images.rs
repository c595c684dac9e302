//! The images of the guests. Small guests are written here in the text format; those in C are in
//! `test/guests`.

use wherry_testing::{Capability, Image, busybox, can, guests};

/// The WASI functions that the guests here import, four pages of memory, and a helper.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 4)

  ;; Writes `len` bytes from `from` to `fd`, all of them.
  (func $write (param $fd i32) (param $from i32) (param $len i32)
    (loop $more
      (i32.store (i32.const 0) (local.get $from))
      (i32.store (i32.const 4) (local.get $len))
      (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))
        (then (call $proc_exit (i32.const 99))))
      (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
      (local.set $len (i32.sub (local.get $len) (i32.load (i32.const 8))))
      (br_if $more (local.get $len))))
"#;

/// Copies standard input to standard output, to its end.
const CAT: &str = r#"
  (func (export "_start") (local $read i32)
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
        (then (call $proc_exit (i32.const 98))))
      (local.set $read (i32.load (i32.const 8)))
      (if (local.get $read) (then
        (call $write (i32.const 1) (i32.const 65536) (local.get $read))
        (br $more)))))
"#;

/// The text of a module with the prelude and these fields.
pub fn text(fields: &str) -> String {
    format!("(module {PRELUDE} {fields})")
}

/// Converts the text format to the binary format.
pub fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("a guest's text is wrong: {e}"))
}

/// An image with one wasm file, `/app.wasm`, as its entrypoint.
pub fn app(name: &str, wasm: impl Into<Vec<u8>>) -> Image {
    Image::new(name).file("/app.wasm", 0o755, wasm).entrypoint(&["/app.wasm"])
}

/// An image of a guest with the prelude and these fields.
pub fn fields(name: &str, fields: &str) -> Image {
    app(name, binary(&text(fields)))
}

/// The bytes of a guest that prints "hello\n".
pub fn hello_wasm() -> Vec<u8> {
    binary(&text(&hello_fields("_start")))
}

/// A function of this name that prints "hello\n", for [`text`].
pub fn hello_fields(function: &str) -> String {
    format!(
        r#"(data (i32.const 1024) "hello\n")
           (func (export "{function}") (call $write (i32.const 1) (i32.const 1024) (i32.const 6)))"#
    )
}

/// A guest that prints "hello\n".
pub fn hello() -> Image {
    app("hello", hello_wasm())
}

/// The bytes of a guest that copies its standard input to its standard output.
pub fn cat_wasm() -> Vec<u8> {
    binary(&text(CAT))
}

/// A guest that copies its standard input to its standard output.
pub fn cat() -> Image {
    app("cat", cat_wasm())
}

/// The bytes of a guest that prints "ready\n" and then computes forever.
pub fn spin_wasm() -> Vec<u8> {
    binary(&text(
        r#"(data (i32.const 1024) "ready\n")
           (func (export "_start")
             (call $write (i32.const 1) (i32.const 1024) (i32.const 6))
             (loop $forever (br $forever)))"#,
    ))
}

/// A guest that prints "ready\n" and then computes forever.
pub fn spin() -> Image {
    app("spin", spin_wasm())
}

/// A guest that exits with this code.
pub fn exit(code: u8) -> Image {
    fields("exit", &format!(r#"(func (export "_start") (call $proc_exit (i32.const {code})))"#))
}

/// A guest that traps in a function called `$culprit`.
pub fn trap() -> Image {
    fields("trap", r#"(func $culprit unreachable) (func (export "_start") (call $culprit))"#)
}

/// A guest that allocates and touches memory without end: the kernel must kill it.
pub fn glutton() -> Image {
    app(
        "glutton",
        binary(
            r#"(module (memory (export "memory") 1 65536)
                 (func (export "_start") (local $at i32)
                   (loop $more
                     (local.set $at (i32.mul (memory.grow (i32.const 16)) (i32.const 65536)))
                     (memory.fill (local.get $at) (i32.const 1) (i32.const 1048576))
                     (br $more))))"#,
        ),
    )
}

/// A guest that prints its arguments, an empty line, and its environment, one entry per line.
pub fn world() -> Image {
    let list = |what: &str| {
        format!(
            r#"(drop (call ${what}_sizes_get (i32.const 16) (i32.const 20)))
               (drop (call ${what}_get (i32.const 131072) (i32.const 65536)))
               (call $lines (i32.load (i32.const 20)))"#
        )
    };
    fields_with(
        "world",
        r#"
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))"#,
        &format!(
            r#"(data (i32.const 1024) "\n")
               ;; Prints the strings at 65536, a line each in place of the zero at their ends.
               (func $lines (param $len i32) (local $at i32)
                 (if (i32.eqz (local.get $len)) (then (return)))
                 (loop $more
                   (if (i32.eqz (i32.load8_u offset=65536 (local.get $at)))
                     (then (i32.store8 offset=65536 (local.get $at) (i32.const 10))))
                   (local.set $at (i32.add (local.get $at) (i32.const 1)))
                   (br_if $more (i32.lt_u (local.get $at) (local.get $len))))
                 (call $write (i32.const 1) (i32.const 65536) (local.get $len)))
               (func (export "_start") {} (call $write (i32.const 1) (i32.const 1024) (i32.const 1)) {})"#,
            list("args"),
            list("environ")
        ),
    )
}

/// A guest that reads or writes a file below its first preopened directory, the root: arguments `r
/// PATH` print the file, `w PATH` write "written\n" to it; PATH has no leading slash. Its exit code
/// is WASI's error number.
pub fn files() -> Image {
    fields_with(
        "files",
        r#"
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#,
        r#"(data (i32.const 1024) "written\n")
           (func $check (param $errno i32) (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
           (func $length (param $at i32) (result i32) (local $end i32)
             (local.set $end (local.get $at))
             (loop $more
               (if (i32.load8_u (local.get $end)) (then
                 (local.set $end (i32.add (local.get $end) (i32.const 1)))
                 (br $more))))
             (i32.sub (local.get $end) (local.get $at)))
           (func (export "_start") (local $path i32) (local $writing i32) (local $read i32)
             (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $args_get (i32.const 131072) (i32.const 65536)))
             (local.set $writing
               (i32.eq (i32.load8_u (i32.load (i32.const 131076))) (i32.const 119)))
             (local.set $path (i32.load (i32.const 131080)))
             ;; Create and truncate where it writes; the right to write, or to read.
             (call $check (call $path_open (i32.const 3) (i32.const 1)
               (local.get $path) (call $length (local.get $path))
               (select (i32.const 9) (i32.const 0) (local.get $writing))
               (select (i64.const 0x40) (i64.const 0x2) (local.get $writing))
               (i64.const 0) (i32.const 0) (i32.const 24)))
             (if (local.get $writing)
               (then (call $write (i32.load (i32.const 24)) (i32.const 1024) (i32.const 8)))
               (else
                 (loop $more
                   (i32.store (i32.const 0) (i32.const 65536))
                   (i32.store (i32.const 4) (i32.const 65536))
                   (call $check
                     (call $fd_read (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 8)))
                   (local.set $read (i32.load (i32.const 8)))
                   (if (local.get $read) (then
                     (call $write (i32.const 1) (i32.const 65536) (local.get $read))
                     (br $more)))))))"#,
    )
}

/// A root filesystem with several guests: `/hello.wasm`, `/cat.wasm`, `/spin.wasm`, `/flood.wasm`,
/// which writes forever and never reads, and a busybox.
pub fn guests_and_tools() -> Image {
    let flood = text(
        r#"(func (export "_start")
             (loop $forever
               (call $write (i32.const 1) (i32.const 65536) (i32.const 65536))
               (br $forever)))"#,
    );
    busybox()
        .file("/hello.wasm", 0o755, hello_wasm())
        .file("/cat.wasm", 0o755, cat_wasm())
        .file("/spin.wasm", 0o755, spin_wasm())
        .file("/flood.wasm", 0o755, binary(&flood))
}

/// A guest that takes seconds to compile, differs in each call, so that no cache contains it, and
/// prints "hello\n".
pub fn laborious_wasm() -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let unlike_any = now.expect("a clock").as_nanos();
    let step = "(local.set $x (i64.rotl (i64.mul (local.get $x) (i64.const 7)) (local.get $x)))";
    let function =
        format!("(func (param $x i64) (result i64) {} (local.get $x))", step.repeat(100));
    let label = format!(r#"(data (i32.const 2048) "{unlike_any}")"#);
    binary(&text(&(hello_fields("_start") + &label + &function.repeat(4000))))
}

/// An image of a guest with the prelude, more imports and these fields.
fn fields_with(name: &str, imports: &str, fields: &str) -> Image {
    app(name, binary(&format!("(module {imports} {PRELUDE} {fields})")))
}

/// The C guest with many commands, `test/guests/kit.c`: as a core module, or as a component.
pub fn kit(component: bool) -> Image {
    if component {
        app("kit-component", guests::bytes("kit.component.wasm"))
    } else {
        app("kit", guests::bytes("kit.wasm"))
    }
}

/// The kit in each form that the engine runs.
pub fn kits() -> Vec<Image> {
    let component = can(Capability::Components).then(|| kit(true));
    [kit(false)].into_iter().chain(component).collect()
}

/// The guest that uses the network, `test/guests/net.c`, a component.
pub fn net() -> Image {
    app("net", guests::bytes("net.component.wasm"))
}

/// The server of HTTP, `test/guests/http.c`.
pub fn http() -> Image {
    app("http", guests::bytes("http.component.wasm"))
}

/// The same of a later version of WASI 0.2.
pub fn http_of_later_version() -> Image {
    app("http-later", guests::bytes("http-later.component.wasm"))
}

/// The same, which is a program, too.
pub fn http_and_program() -> Image {
    app("http-program", guests::bytes("http-program.component.wasm"))
}

/// A guest of `test/guests` that needs no argument.
pub fn guest(name: &str) -> Image {
    app(&name.replace('.', "-"), guests::bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guests_text_is_right() {
        // Each constructor encodes its text, or panics with the line.
        for image in [hello(), cat(), spin(), exit(1), trap(), glutton(), world(), files()] {
            image.pack();
        }
    }
}
