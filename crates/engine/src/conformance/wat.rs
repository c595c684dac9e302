//! The guests' common part, in the text format.

/// WASI's functions, a megabyte of memory and a few helpers. The first 64 bytes of memory are the
/// helpers' own; data of a case begins at 1024, its buffers at 65536.
pub(super) const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 16)
  (data (i32.const 512) "ready\n")

  ;; Ends with this error number as exit code, unless it is 0.
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))

  ;; Reads once; the number of bytes.
  (func $read (param $fd i32) (param $to i32) (param $len i32) (result i32)
    (i32.store (i32.const 0) (local.get $to))
    (i32.store (i32.const 4) (local.get $len))
    (call $check (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))

  ;; Writes all; the error number.
  (func $write (param $fd i32) (param $from i32) (param $len i32) (result i32)
    (local $errno i32)
    (loop $more
      (i32.store (i32.const 0) (local.get $from))
      (i32.store (i32.const 4) (local.get $len))
      (local.set $errno
        (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (local.get $errno) (then (return (local.get $errno))))
      (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
      (local.set $len (i32.sub (local.get $len) (i32.load (i32.const 8))))
      (br_if $more (local.get $len)))
    (i32.const 0))

  (func $print (param $from i32) (param $len i32)
    (call $check (call $write (i32.const 1) (local.get $from) (local.get $len))))

  (func $ready (call $print (i32.const 512) (i32.const 6)))

  ;; Opens a file for reading, or makes it for writing; the error number. Its descriptor goes to 12.
  (func $open (param $dir i32) (param $path i32) (param $len i32) (param $create i32) (result i32)
    (call $path_open (local.get $dir) (i32.const 1) (local.get $path) (local.get $len)
      (local.get $create)
      (select (i64.const 0x40) (i64.const 0x2) (local.get $create))
      (i64.const 0) (i32.const 0) (i32.const 12)))
  (func $fd (result i32) (i32.load (i32.const 12)))
"#;

/// Copies standard input to standard output.
pub(super) const CAT: &str = r#"
  (func (export "_start")
    (local $read i32)
    (loop $more
      (local.set $read (call $read (i32.const 0) (i32.const 65536) (i32.const 65536)))
      (if (local.get $read) (then
        (call $print (i32.const 65536) (local.get $read))
        (br $more)))))
"#;

/// A module of the prelude and these fields, in the binary format.
pub(super) fn module(fields: &str) -> Vec<u8> {
    encode(&format!("(module {PRELUDE} {fields})"))
}

/// The binary format of a whole text.
pub(super) fn encode(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}
