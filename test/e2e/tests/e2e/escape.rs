//! Ways out of a container that are closed: to the engine host's executable and to the guest's own
//! process.
//!
//! Each test makes the attempt of an image's author, a container's root, or a process beside the
//! guest.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use wherry_e2e::images::{binary, guests_and_tools, kit, kits};
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers};
use wherry_testing::{
    Containerd, Daemon, Docker, Image, Outcome, Run, bin_dir, busybox, engine, guests, shim_program,
};

/// EROFS. While a process runs the file the kernel answers ETXTBSY first, unless the open truncates
/// the file.
const READ_ONLY: &str = "errno 30";
const BUSY: &str = "errno 26";

/// The files that a container must not write to, by device and inode.
fn executables() -> Vec<(u64, u64)> {
    let engine = engine();
    [format!("wherry-{engine}-host"), format!("wherry-{engine}"), shim_program()]
        .iter()
        .map(|name| fs::metadata(bin_dir().join(name)).expect("it was built"))
        .map(|about| (about.dev(), about.ino()))
        .collect()
}

/// The dynamic loader of the engine host, if it is not linked statically.
fn interpreter() -> Option<String> {
    let host = fs::read(bin_dir().join(format!("wherry-{}-host", engine()))).expect("it was built");
    let number = |at: usize, size: usize| {
        host[at..at + size]
            .iter()
            .rev()
            .fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    // The program headers of elf(5), 56 bytes each.
    let headers = (0..number(56, 2)).map(|index| number(32, 8) + 56 * index);
    let at = headers.into_iter().find(|at| number(*at, 4) == 3)?;
    let path = &host[number(at + 8, 8)..][..number(at + 32, 8) - 1];
    Some(String::from_utf8(path.to_vec()).expect("a path"))
}

/// An image with a malicious dynamic loader, which executes the engine host in a way that the
/// runtime does not see.
fn loader(entrypoint: &str, script: &str) -> Image {
    let intruder = guests::bytes("intruder.native");
    let loader = interpreter().unwrap_or("/lib64/ld-linux-x86-64.so.2".to_owned());
    Image::new("intruder")
        .file("/intruder", 0o755, intruder.clone())
        .file(&loader, 0o755, intruder)
        .file("/script", 0o755, script)
        .file("/inner", 0o755, "#!/proc/self/exe\n")
        .entrypoint(&[entrypoint])
}

fn the_engine_host_is_no_program_of_a_container(daemon: &dyn Daemon) {
    for (entrypoint, script) in [("/proc/self/exe", ""), ("/script", "#!/proc/self/exe\n")] {
        let outcome = daemon.run(&Run::new(&loader(entrypoint, script)));
        assert_ne!(outcome.code, 0, "{outcome}");
        let said = outcome.out() + &outcome.err();
        assert!(!said.contains("loader"), "{outcome}");
        let sentence = format!("exec \"{entrypoint}\": permission denied: it is the engine host");
        assert!(said.contains(&sentence), "{outcome}");
    }
}

fn an_image_that_executes_the_engine_host_cannot_write_it(daemon: &dyn Daemon) {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let before = executables();
    // The runtime inspects the interpreter of the script, and the kernel the interpreter of that
    // one.
    let outcome = daemon.run(&Run::new(&loader("/script", "#!/inner\n")));
    let said = outcome.out();
    assert_eq!(executables(), before);
    if interpreter().is_none() {
        // The kernel starts no loader, and the host only prints its usage.
        assert_eq!(said, "", "{outcome}");
        assert!(outcome.err().contains("A shim starts this program"), "{outcome}");
        return;
    }
    for name in ["executable", "executable-append", "descriptor"] {
        let refused = |errno: &str| said.contains(&format!("{name} {errno}\n"));
        assert!(refused(READ_ONLY) || refused(BUSY), "{name}: {outcome}");
    }
    assert!(said.contains(&format!("descriptor-truncate {READ_ONLY}\n")), "{outcome}");
    assert!(!said.contains("opened"), "{outcome}");
}

/// For each regular file among these names: whether it can be written, and which file it is.
/// Setting a file's times checks the mount, changes no content, and works while a process runs the
/// file.
const LOOK_AT_ALL: &str = r#"for name in "$@"; do
    [ -f "$name" ] || continue
    if touch -c "$name" 2> /dev/null; then said=writable; else said=read-only; fi
    echo "$said $name $(stat -L -c '%d %i' "$name")"
done"#;

/// Asserts that no file in the output is both mapped by the guest's process and writable.
#[track_caller]
fn none_is_writable(outcome: &Outcome, guest: i32) {
    let mapped = mapped(guest);
    for line in outcome.out().lines().filter(|line| line.starts_with("writable")) {
        let inode = line.split(' ').nth(3).and_then(|word| word.parse().ok()).expect("a number");
        assert!(!mapped.contains(&inode), "{line}\n{outcome}");
    }
}

/// The files that a process has mapped, as the host sees them, by inode.
fn mapped(pid: i32) -> HashSet<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(4)?.parse().ok())
        .filter(|inode| *inode != 0)
        .collect()
}

fn a_program_beside_the_guest_cannot_write_what_runs_the_guest(docker: &Docker) {
    let configurations: [&[&str]; 3] = [
        &[],
        &["--cap-add", "SYS_PTRACE"],
        &[
            "--cap-add",
            "SYS_PTRACE",
            "--cap-add",
            "CHECKPOINT_RESTORE",
            "--security-opt",
            "seccomp=unconfined",
        ],
    ];
    // The libraries of an engine in a shared library are files of the host: see SECURITY.md.
    let tried = if interpreter().is_none() { 3 } else { 2 };
    for options in configurations.into_iter().take(tried) {
        let run = Run::new(&guests_and_tools()).extra(options).args(&["/spin.wasm"]);
        let container = docker.start(&run);
        container.wait_for_output("ready");
        let names = "/proc/1/exe /proc/1/task/1/exe /proc/1/fd/* /proc/1/map_files/* /proc/self/exe /proc/self/fd/*";
        let script = format!("set -- {names}\n{LOOK_AT_ALL}");
        let outcome = docker.exec(container.id(), &["/bin/sh", "-c", &script], b"");
        none_is_writable(&outcome, container.pid());
        // Only a process that may inspect the guest's process gets to a read-only file.
        let looked_at = outcome.out().contains("read-only /proc/1/exe");
        assert_eq!(looked_at, !options.is_empty(), "{options:?}: {outcome}");
    }
}

fn a_shared_pid_namespace_leads_to_no_executable(docker: &Docker) {
    let guest = docker.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    guest.wait_for_output("ready");
    let pid = format!("container:{}", guest.id());
    let options =
        ["--pid", &pid, "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"];
    let script = format!("set -- /proc/[0-9]*/exe /proc/[0-9]*/fd/*\n{LOOK_AT_ALL}");
    let beside = Run::new(&busybox()).extra(&options).args(&["/bin/sh", "-c", &script]);
    let outcome = docker.run(&beside);
    assert!(outcome.out().contains("read-only /proc/1/exe"), "{outcome}");
    none_is_writable(&outcome, guest.pid());
}

/// The entries of a process in procfs that a guest must not open.
const SECRETS: [&str; 21] = [
    "mem",
    "maps",
    "smaps",
    "smaps_rollup",
    "numa_maps",
    "pagemap",
    "map_files",
    "fd",
    "fdinfo",
    "environ",
    "auxv",
    "exe",
    "root/etc/passwd",
    "cwd/etc/passwd",
    "syscall",
    "stack",
    "stat",
    "task/1/mem",
    "task/1/maps",
    "ns/mnt",
    "attr/current",
];

fn a_guest_cannot_open_its_own_process(docker: &Docker) {
    for kit in kits() {
        let image = kit
            .file("/etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n")
            .link("/mem", "proc/self/mem")
            .link("/process", "proc/self")
            .link("/up", "../../../../proc/1/maps");
        for user in ["0:0", "1234:1234"] {
            let options = ["--user", user, "--volume", "/proc:/hostproc"];
            let mut lines = Vec::new();
            for secret in SECRETS {
                for process in [
                    "/proc/self",
                    "/proc/1",
                    "/proc/thread-self",
                    "/hostproc/self",
                    "/hostproc/1",
                    "/process",
                ] {
                    lines.push(format!("read {process}/{secret}"));
                    lines.push(format!("list {process}/{secret}"));
                    lines.push(format!("write {process}/{secret} x"));
                }
            }
            let others = [
                "read /mem",
                "write /mem x",
                "read /up",
                "read /proc/kcore",
                "read /proc/kallsyms",
                "read /proc/kmsg",
                "read /proc/kpagecount",
                "read /hostproc/self/status",
                "read /hostproc/1/cmdline",
                "read /proc/1/../self/maps",
                "read /sys/kernel/notes",
                "read /sys/kernel/vmcoreinfo",
                "list /sys/module",
                "write /proc/self/comm x",
                "write /proc/sys/kernel/hostname x",
            ];
            lines.extend(others.map(str::to_owned));
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            for some in lines.chunks(100) {
                let outcome = wherry_e2e::inside::run(docker, &image, &options, some);
                // Each line fails, and prints nothing.
                let said = outcome.out();
                let printed: Vec<&str> =
                    said.lines().filter(|line| !line.starts_with("$ ")).collect();
                assert!(printed.is_empty(), "{user}: {printed:?}\n{outcome}");
                assert_eq!(outcome.err().matches("kit: ").count(), some.len(), "{user}: {outcome}");
            }
        }
    }
}

fn a_guest_reads_of_procfs_what_programs_read(docker: &Docker) {
    for image in kits() {
        for user in ["0:0", "1234:1234"] {
            let lines = [
                "read /proc/cpuinfo",
                "read /proc/meminfo",
                "read /proc/uptime",
                "read /proc/loadavg",
                "read /proc/self/status",
                "read /proc/self/mountinfo",
                "read /proc/self/cgroup",
                "read /proc/self/limits",
                "read /proc/1/cmdline",
                "read /proc/sys/kernel/hostname",
                "read /proc/stat",
                "list /proc",
                "list /proc/self",
                "read /sys/devices/system/cpu/online",
            ];
            let said = wherry_e2e::inside::look(docker, &image, &["--user", user], &lines);
            for line in lines {
                assert!(!wherry_e2e::inside::of(&said, line).is_empty(), "{user}: {line}: {said}");
            }
        }
    }
}

/// Opens `proc` as a directory, `self` below it, and then `mem` below that: the path that an engine
/// resolves name by name.
fn descriptors_of_directories_lead_to_no_memory(daemon: &dyn Daemon) {
    let module = binary(
        r#"(module
             (import "wasi_snapshot_preview1" "path_open"
               (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "path_rename"
               (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
             (memory (export "memory") 1)
             (data (i32.const 64) "proc") (data (i32.const 72) "self") (data (i32.const 80) "mem") (data (i32.const 88) "maps")
             (func $open (param $at i32) (param $name i32) (param $length i32) (param $flags i32) (param $rights i64) (result i32)
               (call $path_open (local.get $at) (i32.const 1) (local.get $name) (local.get $length) (local.get $flags)
                 (local.get $rights) (i64.const 0x6002) (i32.const 0) (i32.const 8)))
             (func $must (param $step i32) (param $holds i32)
               (if (i32.eqz (local.get $holds)) (then (call $proc_exit (local.get $step)))))
             (func (export "_start") (local $proc i32) (local $self i32)
               (call $must (i32.const 1)
                 (i32.eqz (call $open (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 2) (i64.const 0x6002))))
               (local.set $proc (i32.load (i32.const 8)))
               ;; `self` is a symbolic link.
               (call $must (i32.const 2)
                 (i32.eqz (call $open (local.get $proc) (i32.const 72) (i32.const 4) (i32.const 2) (i64.const 0x6002))))
               (local.set $self (i32.load (i32.const 8)))
               (call $must (i32.const 3)
                 (call $open (local.get $self) (i32.const 80) (i32.const 3) (i32.const 0) (i64.const 0x42)))
               (call $must (i32.const 4)
                 (call $open (local.get $self) (i32.const 80) (i32.const 3) (i32.const 0) (i64.const 0x2)))
               (call $must (i32.const 5)
                 (call $open (local.get $self) (i32.const 88) (i32.const 4) (i32.const 0) (i64.const 0x2)))
               ;; Another name of the same file.
               (call $must (i32.const 6)
                 (call $path_rename (local.get $self) (i32.const 80) (i32.const 3) (i32.const 3) (i32.const 88) (i32.const 4)))))"#,
    );
    let image = Image::new("walk").file("/app.wasm", 0o755, module).entrypoint(&["/app.wasm"]);
    let outcome = daemon.run(&Run::new(&image));
    assert_eq!(outcome.code, 0, "the step that failed: {outcome}");
}

fn a_containers_root_cannot_raise_its_own_limits(docker: &Docker) {
    let script = "for file in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max \
        /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; do \
        [ ! -e $file ] || echo 1000000000 > $file; done; true";
    let options = ["--memory", "64m", "--pids-limit", "50"];
    let run = Run::new(&busybox()).extra(&options).args(&["/bin/sh", "-c", script]);
    let outcome = docker.run(&run);
    assert_eq!(outcome.err().matches("Read-only file system").count(), 2, "{outcome}");
}

fn no_memory_of_a_guest_becomes_executable(docker: &Docker) {
    let container = docker.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    container.wait_for_output("ready");
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
    // One filter of the container's, one of the engine's.
    assert!(
        status.contains("\nSeccomp_filters:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"),
        "{status}"
    );
    let maps = fs::read_to_string(format!("/proc/{}/maps", container.pid())).expect("it runs");
    let both = maps
        .lines()
        .find(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rwx")));
    assert_eq!(both, None);
}

fn executables_run_from_a_read_only_mount(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let own = fs::read_link(format!("/proc/{}/exe", container.pid())).expect("it runs");
    assert!(own.starts_with("/run/wherry"), "{}", own.display());
    assert!(
        fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", container.pid())).is_err()
    );
    let views = fs::metadata("/run/wherry").expect("it is there");
    assert_eq!((views.uid(), views.mode() & 0o7777), (0, 0o700));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
    let ours =
        mounts.lines().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == own));
    let ours = ours.expect("it is mounted in the host's namespace");
    assert!(ours.split(' ').nth(5).is_some_and(|options| options.starts_with("ro,")), "{ours}");
}

on_all_daemons!(
    the_engine_host_is_no_program_of_a_container,
    an_image_that_executes_the_engine_host_cannot_write_it,
    descriptors_of_directories_lead_to_no_memory,
);

mod beside {
    use super::*;

    on_dockers!(
        a_program_beside_the_guest_cannot_write_what_runs_the_guest,
        a_shared_pid_namespace_leads_to_no_executable,
        a_guest_cannot_open_its_own_process,
        a_guest_reads_of_procfs_what_programs_read,
        a_containers_root_cannot_raise_its_own_limits,
        no_memory_of_a_guest_becomes_executable,
    );
    on_containerds!(executables_run_from_a_read_only_mount);
}
