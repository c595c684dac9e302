//! The guest's context: arguments, environment, files, clocks, random bytes, memory.

use std::fs;
use std::os::unix::fs::symlink;

use super::Host;

pub fn arguments_arrive_as_given(host: &Host) {
    let guest = host.guest(
        r#"(func (export "_start")
             (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $args_get (i32.const 65536) (i32.const 131072)))
             (call $print (i32.const 131072) (i32.load (i32.const 20))))"#,
    );
    let file = guest.file().display().to_string();
    let ended = guest.arg("one").arg("two words").arg("").arg("--env").arg("ünï").run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let expected = format!("{file}\0one\0two words\0\0--env\0ünï\0");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), expected);
}

pub fn environment_is_what_is_given_and_nothing_else(host: &Host) {
    let guest = host.guest(
        r#"(func (export "_start")
             (call $check (call $environ_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $environ_get (i32.const 65536) (i32.const 131072)))
             (if (i32.load (i32.const 16)) (then
               (call $print (i32.const 131072) (i32.load (i32.const 20))))))"#,
    );
    assert_eq!(guest.run().stdout, b"");
    let ended = guest.env("ZULU=1").env("ALPHA=a=b c").env("EMPTY=").run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "ZULU=1\0ALPHA=a=b c\0EMPTY=\0");
}

pub fn files_are_read_and_written_below_a_preopen(host: &Host) {
    let data = host.folder("data");
    fs::write(data.join("in"), "from the host").unwrap();
    let ended = host
        .guest(
            r#"(data (i32.const 1024) "in") (data (i32.const 1032) "out")
               (func (export "_start") (local $len i32)
                 (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 2) (i32.const 0)))
                 (local.set $len (call $read (call $fd) (i32.const 65536) (i32.const 100)))
                 (call $check (call $fd_close (call $fd)))
                 (call $check (call $open (i32.const 3) (i32.const 1032) (i32.const 3) (i32.const 1)))
                 (call $check (call $write (call $fd) (i32.const 65536) (local.get $len)))
                 (call $check (call $fd_close (call $fd))))"#,
        )
        .dir(&data, "/data")
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(fs::read_to_string(data.join("out")).unwrap(), "from the host");
}

/// Exits with the error number of opening `path` below descriptor 3.
fn opener(path: &str) -> String {
    format!(
        r#"(data (i32.const 1024) "{path}")
           (func (export "_start")
             (call $proc_exit
               (call $open (i32.const 3) (i32.const 1024) (i32.const {}) (i32.const 0))))"#,
        path.len()
    )
}

/// The engine's filter, which the host installs, must hold for the engine's own way of opening
/// files.
pub fn its_own_process_is_closed_to_a_guest(host: &Host) {
    let links = host.folder("links");
    symlink("/proc/self/mem", links.join("absolute")).unwrap();
    let root = std::path::Path::new("/");
    let links = links.strip_prefix("/").unwrap().display();
    let refused = [
        "proc/self/mem".to_owned(),
        "proc/self/maps".to_owned(),
        "proc/self/environ".to_owned(),
        "proc/thread-self/mem".to_owned(),
        "proc/self/task/../mem".to_owned(),
        "proc/self/exe".to_owned(),
        "proc/self/fd/0".to_owned(),
        format!("{links}/absolute"),
    ];
    for path in refused {
        let ended = host.guest(&opener(&path)).dir(root, "/").run();
        assert!(
            ended.code > 0 && ended.code < 77,
            "{path} ends with {}: {}",
            ended.code,
            ended.stderr
        );
    }
    let ended = host.guest(&opener("proc/self/status")).dir(root, "/").run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

pub fn nothing_is_visible_without_a_preopen(host: &Host) {
    const BADF: i32 = 8;
    assert_eq!(host.guest(&opener("etc/passwd")).run().code, BADF);
    assert_eq!(host.guest(&opener("/etc/passwd")).run().code, BADF);
}

pub fn a_path_cannot_leave_its_preopen(host: &Host) {
    let data = host.folder("data");
    let secret = host.folder("secret").join("file");
    fs::write(&secret, "not for the guest").unwrap();
    fs::write(data.join("file"), "for the guest").unwrap();
    symlink(&secret, data.join("absolute")).unwrap();
    symlink("../secret/file", data.join("relative")).unwrap();
    symlink("..", data.join("up")).unwrap();
    let code = |path: &str| host.guest(&opener(path)).dir(&data, "/data").run().code;
    assert_eq!(code("file"), 0);
    let absolute = secret.to_str().unwrap();
    for path in ["../secret/file", "absolute", "relative", "up/secret/file", absolute] {
        assert!((1..=76).contains(&code(path)), "{path} is open to the guest");
    }
}

pub fn the_working_directory_is_a_preopen(host: &Host) {
    let data = host.folder("data");
    fs::write(host.folder("data/sub").join("file"), "here").unwrap();
    // Finds the preopen named ".".
    let ended = host
        .guest(
            r#"(data (i32.const 1024) "file")
               (func (export "_start") (local $dir i32)
                 (local.set $dir (i32.const 2))
                 (loop $next
                   (local.set $dir (i32.add (local.get $dir) (i32.const 1)))
                   (call $check (call $fd_prestat_get (local.get $dir) (i32.const 16)))
                   (br_if $next (i32.ne (i32.load (i32.const 20)) (i32.const 1)))
                   (call $check
                     (call $fd_prestat_dir_name (local.get $dir) (i32.const 24) (i32.const 1)))
                   (br_if $next (i32.ne (i32.load8_u (i32.const 24)) (i32.const 0x2e))))
                 (call $check
                   (call $open (local.get $dir) (i32.const 1024) (i32.const 4) (i32.const 0)))
                 (call $print (i32.const 65536)
                   (call $read (call $fd) (i32.const 65536) (i32.const 100))))"#,
        )
        .dir(&data, "/data")
        .cwd("/data/sub")
        .run();
    assert_eq!((ended.code, &*ended.stdout), (0, &b"here"[..]), "{}", ended.stderr);
}

/// Zig and AssemblyScript take the first preopen, wasi-libc the last of those that fit.
pub fn the_working_directory_is_the_first_and_the_last_preopen(host: &Host) {
    let data = host.folder("data");
    fs::write(host.folder("data/sub").join("file"), "here").unwrap();
    // Opens the file below descriptor 3, then below the last one.
    let ended = host
        .guest(
            r#"(data (i32.const 1024) "file")
               (func (export "_start") (local $dir i32)
                 (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 0)))
                 (call $check (call $fd_close (call $fd)))
                 (local.set $dir (i32.const 3))
                 (loop $next
                   (local.set $dir (i32.add (local.get $dir) (i32.const 1)))
                   (br_if $next
                     (i32.eqz (call $fd_prestat_get (local.get $dir) (i32.const 16)))))
                 (local.set $dir (i32.sub (local.get $dir) (i32.const 1)))
                 (call $check
                   (call $open (local.get $dir) (i32.const 1024) (i32.const 4) (i32.const 0))))"#,
        )
        .dir(&data, "/data")
        .cwd("/data/sub")
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

/// With the root as preopen, the guard must serve the engine's own way of resolving links.
pub fn links_resolve_in_the_root(host: &Host) {
    const NOENT: i32 = 44;
    const LOOP: i32 = 32;
    let folder = host.folder("a/b");
    let base = folder.parent().unwrap().strip_prefix("/").unwrap().to_owned();
    fs::write(folder.join("file"), "here").unwrap();
    let make = |target: &str, name: &str| symlink(target, folder.join(name)).unwrap();
    let shown = base.display();
    make(&format!("/{shown}/b/file"), "absolute");
    make(&format!("/{shown}"), "directory");
    make(&format!("{}{shown}/b/file", "../".repeat(40)), "above");
    make("absolute", "twice");
    make("/no/such/file", "dangling");
    make("loop", "loop");
    let root = std::path::Path::new("/");
    for (path, code) in [
        ("absolute", 0),
        ("directory/b/file", 0),
        ("directory/b/absolute", 0),
        ("above", 0),
        ("twice", 0),
        ("dangling", NOENT),
        ("loop", LOOP),
    ] {
        let path = format!("{shown}/b/{path}");
        let fields = follower(&path);
        let ended = host.guest(&fields).dir(root, "/").run();
        assert_eq!(ended.code, code, "{path}: {}", ended.stderr);
    }
}

/// Exits with the error number of opening `path` below descriptor 3, following links.
fn follower(path: &str) -> String {
    format!(
        r#"(data (i32.const 1024) "{path}")
           (func (export "_start")
             (call $proc_exit
               (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {})
                 (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12))))"#,
        path.len()
    )
}

pub fn a_missing_directory_is_named(host: &Host) {
    let missing = host.folder("data").join("missing");
    let path = missing.to_str().unwrap();
    host.guest(r#"(func (export "_start"))"#).dir(&missing, "/data").refused(&[path]);
}

pub fn clocks_tell_the_time(host: &Host) {
    let before = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let ended = host
        .guest(
            r#"(func (export "_start") (local $first i64)
                 (call $check (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 16)))
                 (local.set $first (i64.load (i32.const 16)))
                 (loop $again
                   (call $check (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 16)))
                   (br_if $again (i64.eq (local.get $first) (i64.load (i32.const 16)))))
                 (if (i64.gt_u (local.get $first) (i64.load (i32.const 16))) (then unreachable))
                 (call $check (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 16)))
                 (call $print (i32.const 16) (i32.const 8)))"#,
        )
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let time = u64::from_le_bytes(ended.stdout.try_into().unwrap());
    let after = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    assert!((before..=after).contains(&time), "{before} {time} {after}");
}

pub fn random_bytes_differ(host: &Host) {
    let guest = host.guest(
        r#"(func (export "_start")
             (call $check (call $random_get (i32.const 65536) (i32.const 64)))
             (call $print (i32.const 65536) (i32.const 64)))"#,
    );
    let (one, two) = (guest.run().stdout, guest.run().stdout);
    assert_eq!(one.len(), 64);
    assert_ne!(one, two);
    assert_ne!(one[..32], one[32..]);
}

pub fn memory_that_cannot_grow_says_so(host: &Host) {
    let grow = |memory: &str, pages: u32| {
        let text = format!(
            r#"(module
                 (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
                 (memory (export "memory") {memory})
                 (func (export "_start")
                   (call $proc_exit (memory.grow (i32.const {pages})))))"#
        );
        host.file("grow.wasm", &super::wat::encode(&text)).run().code
    };
    assert_eq!(grow("1", 65536), 255);
    assert_eq!(grow("1 4", 4), 255);
    assert_eq!(grow("3 16", 4), 3);
}
