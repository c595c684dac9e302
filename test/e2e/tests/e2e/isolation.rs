//! Containers of one manager: none sees another, holds anything of an earlier one, or delays the
//! calls about another.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tokio::task::JoinSet;
use wherry_e2e::client::{Client, Paths, Wanted};
use wherry_e2e::images::{app, binary, cat, guests_and_tools, hello, kit, spin};
use wherry_e2e::managed::{kill, manager, signal};
use wherry_e2e::on_own_containerds;
use wherry_testing::{
    Container, Containerd, DEADLINE, Daemon, Image, Process, Run, busybox, guests, processes,
    shared, wait_until,
};

/// Reads at most this many bytes of a process's memory at a time.
const BLOCK: usize = 1 << 20;

/// How often `pattern` is in the memory of a process that it may read.
fn occurrences(pid: i32, pattern: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may read it");
    let mut found = 0;
    let mut read = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two addresses");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        // The kernel's own mappings cannot be read through this file.
        if !rest.starts_with('r') || line.contains("[v") {
            continue;
        }
        let (mut at, to) = (address(from), address(to));
        while at < to {
            let mut block = vec![0; BLOCK.min(usize::try_from(to - at).expect("it fits"))];
            // Pages behind the end of a file cannot be read.
            let Ok(length @ 1..) = memory.read_at(&mut block, at) else { break };
            let windows = block[..length].windows(pattern.len());
            found += windows.filter(|window| *window == pattern).count();
            read += length;
            // A pattern may lie across two blocks.
            let overlap =
                if length == block.len() && at + (length as u64) < to { pattern.len() } else { 0 };
            at += (length - overlap) as u64;
        }
    }
    assert!(read > BLOCK, "only {read} bytes of process {pid} could be read");
    found
}

/// The pattern in arguments, environment, a file, standard input and the guest's memory.
fn a_later_guest_holds_nothing_of_an_earlier_one(containerd: &Containerd) {
    let secret = format!("secret-{:032x}", fastrand::u128(..));
    let file = containerd.root().join("secret.txt");
    fs::write(&file, &secret).expect("the folder is writable");
    let sleep = || Run::new(&kit(false)).args(&["sleep", "1000000"]);

    // The search finds the pattern in the guest to which it belongs.
    let earlier = containerd.start(&sleep().args(&[&secret]).env("SECRET", &secret));
    earlier.wait_for_output("ready");
    assert_ne!(occurrences(earlier.pid(), secret.as_bytes()), 0);
    for _ in 0..5 {
        let reads = Run::new(&kit(false)).bind(&file, "/secret").args(&["read", "/secret"]);
        assert_eq!(containerd.run(&reads.env("SECRET", &secret)).success(), secret);
        let copies = Run::new(&cat()).args(&["/app.wasm", &secret]).stdin(secret.as_bytes());
        assert_eq!(containerd.run(&copies).success(), secret);
    }
    let exec = containerd.exec(earlier.id(), &["/app.wasm", "echo", &secret], b"");
    assert_eq!(exec.success().trim_end(), secret);

    // More than the spare hosts, which existed before.
    for _ in 0..5 {
        let later = containerd.start(&sleep());
        later.wait_for_output("ready");
        assert_eq!(occurrences(later.pid(), secret.as_bytes()), 0);
        later.remove();
    }
    // The processes of the engine that wait for a container.
    for process in processes() {
        let parent = process.parent();
        if process.command.starts_with("wherry ")
            && parent
                .is_some_and(|parent| earlier.shims().iter().any(|shim| shim.pid == parent.pid))
        {
            assert_eq!(occurrences(process.pid, secret.as_bytes()), 0, "{process:?}");
        }
    }
    earlier.remove();
}

/// Writes sixteen random bytes.
const RANDOM: &str = r#"(module
    (import "wasi_snapshot_preview1" "random_get"
        (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\40\00\00\00\10\00\00\00")
    (func (export "_start")
        (drop (call $random (i32.const 64) (i32.const 16)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// The state of a generator of random numbers must not come from a process that forks many guests.
fn guests_of_one_manager_have_different_random_numbers(containerd: &Containerd) {
    let image = app("random", binary(RANDOM));
    let all: BTreeSet<Vec<u8>> = (0..6)
        .map(|_| {
            let container = containerd.start(&Run::new(&image));
            assert_eq!(container.wait(), 0);
            let bytes = container.stdout();
            container.remove();
            bytes
        })
        .collect();
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(all.iter().all(|bytes| bytes.len() == 16), "{all:?}");
}

/// Prints a line for each thing outside of the container that can be reached. `$1` is the pid of
/// the neighbour's process on the host, `$2` its bundle.
const REACH: &str = r#"
for pid in $1 $(seq 2 400); do
    [ "$(awk '{print $4}' /proc/$pid/stat 2> /dev/null)" = $$ ] && continue
    [ -e /proc/$pid ] && echo "procfs $pid"
    kill -0 $pid 2> /dev/null && echo "signal $pid"
done
for path in /run/containerd /run/wherry /var/lib/wherry /var/lib/containerd "$2"; do
    [ -e "$path" ] && echo "file $path"
done
grep '[/@]' /proc/net/unix
for fd in /proc/$$/fd/*; do
    case ${fd##*/} in 0|1|2|10) ;; *) [ -e $fd ] && echo "descriptor $fd $(readlink $fd)";; esac
done
grep -F "${2##*/}" /proc/self/mountinfo /proc/self/cgroup
echo end
"#;

/// A program with all of a container's rights, which a wasm guest does not have.
fn a_container_reaches_nothing_of_its_neighbour(containerd: &Containerd) {
    let guest = Run::new(&kit(false)).args(&["sleep", "1000000", "neighbour"]);
    let neighbour = containerd.start(&guest);
    neighbour.wait_for_output("ready");
    let pid = neighbour.pid().to_string();
    let bundle = neighbour.bundle().display().to_string();
    let reached = |pid: &str, path: &str| {
        let script = ["/bin/sh", "-c", REACH, "sh", pid, path];
        containerd.run(&Run::new(&busybox()).args(&script)).success()
    };
    // The script finds things that are inside of its container.
    assert_eq!(reached("1", "/bin/busybox"), "procfs 1\nsignal 1\nfile /bin/busybox\nend\n");
    assert_eq!(reached(&pid, &bundle), "end\n");
    // A wasm guest.
    let own = containerd.run(&Run::new(&kit(false)).args(&["list", "/proc"])).success();
    let pids: Vec<&str> = own.lines().filter(|name| name.parse::<i32>().is_ok()).collect();
    assert_eq!(pids, ["1"]);
    for path in [format!("/proc/{pid}/cmdline"), bundle] {
        containerd.run(&Run::new(&kit(false)).args(&["read", &path])).failure();
        containerd.run(&Run::new(&kit(false)).args(&["list", &path])).failure();
    }
    assert!(Process::of(neighbour.pid()).is_some());
    neighbour.remove();
}

fn later_containers_survive_the_end_or_stop_of_the_zygote(containerd: &Containerd) {
    if !shared() {
        return;
    }
    containerd.run(&Run::new(&hello())).success();
    let keeper = containerd.start(&Run::new(&spin()));
    let manager = manager(containerd).pid;
    let mut ended = BTreeSet::new();
    for end in [kill, |pid| signal(pid, "STOP"), kill] {
        // Two spare hosts, and one more.
        for _ in 0..3 {
            assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
        }
        let zygotes: Vec<Process> = processes()
            .into_iter()
            .filter(|process| process.command.starts_with("wherry zygote"))
            .filter(|process| process.parent().is_some_and(|parent| parent.pid == manager))
            .collect();
        for zygote in zygotes {
            end(zygote.pid);
            ended.insert(zygote.pid);
        }
    }
    assert_ne!(ended.len(), 0, "the manager has no zygote");
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    // The manager kills a zygote that does not answer.
    wait_until("the end of each zygote", DEADLINE, || {
        ended.iter().all(|pid| Process::of(*pid).is_none())
    });
    keeper.remove();
}

/// The namespaces that each container has for itself.
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];

fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    entries.flatten().filter_map(target).map(|path| path.display().to_string()).collect()
}

fn a_container_has_no_namespace_cgroup_or_descriptor_of_another(containerd: &Containerd) {
    let containers: Vec<Container> = (0..3).map(|_| containerd.start(&Run::new(&spin()))).collect();
    let manager = containers[0].shims().remove(0);
    for name in NAMESPACES {
        let id = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it lives");
        let all = containers.iter().map(|one| one.pid()).chain([manager.pid]);
        let distinct: BTreeSet<_> = all.map(id).collect();
        assert_eq!(distinct.len(), containers.len() + 1, "{name}");
    }
    for one in &containers {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", one.pid())).expect("it lives");
        assert!(groups.contains(one.id()), "{groups}");
        let open = descriptors(one.pid());
        for other in containers.iter().filter(|other| other.id() != one.id()) {
            assert!(!groups.contains(other.id()), "{groups}");
            assert!(!open.iter().any(|target| target.contains(other.id())), "{open:?}");
        }
        // The manager's sockets and pipes stay with it.
        let of_manager: BTreeSet<String> = descriptors(manager.pid).into_iter().collect();
        let is_one =
            |target: &&String| ["socket:", "pipe:"].iter().any(|kind| target.starts_with(kind));
        let shared = open.iter().filter(is_one).filter(|target| of_manager.contains(*target));
        assert_eq!(shared.collect::<Vec<_>>(), Vec::<&String>::new());
    }
    containers.into_iter().for_each(Container::remove);
}

/// The kit, as wasm and as a native program, and a shell.
fn everything() -> Image {
    guests_and_tools().file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
}

/// Each misbehaves in another way, and State and Pids of another container answer meanwhile.
fn a_container_that_misbehaves_delays_no_call_about_another(containerd: &Containerd) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the client");
    let client = {
        let _inside = runtime.enter();
        Client::new(containerd, &everything()).with_limits(200, 64 << 20)
    };
    runtime.block_on(async {
        let none = Paths::default();
        // It does not read what the third writes.
        let full = client.unopened_fifos("full", "");
        let pipes = full.paths();
        let bomb = ["/bin/sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000000"];
        let all: [(&str, &[&str], &Paths); 5] = [
            ("observed", &["/kit.wasm", "sleep", "1000000"], &none),
            ("crash", &["/kit.wasm", "trap"], &none),
            ("full", &["/flood.wasm"], &pipes),
            ("memory", &["/kit.wasm", "alloc", "200"], &none),
            ("bomb", &bomb, &none),
        ];
        for (id, args, paths) in all {
            client
                .make(Wanted { id, args, terminal: false, group: None })
                .await
                .expect("the container is registered");
            client.create(id, false, paths).await.expect("Create answers");
            client.start(id, "").await.expect("Start answers");
            // Each of these calls has a deadline.
            client.get("observed", "").await.expect("State answers");
            client.pids("observed").await.expect("Pids answers");
        }
        let mut execs = JoinSet::new();
        for number in 0..EXECS {
            if execs.len() == 8 {
                execs.join_next().await.expect("some run").expect("no panic");
                client.get("observed", "").await.expect("State answers");
                assert_ne!(client.pids("observed").await.expect("Pids answers").len(), 0);
            }
            let client = client.clone();
            execs.spawn(async move {
                let (id, exec) = ("full", format!("e{number}"));
                client.exec(id, &exec, &["/hello.wasm"], &Paths::default()).await.expect("Exec");
                client.start(id, &exec).await.expect("the exec starts");
                assert_eq!(client.wait(id, &exec, DEADLINE).await.expect("it ends"), 0);
                client.delete(id, &exec).await.expect("the exec is deleted");
            });
        }
        while let Some(exec) = execs.join_next().await {
            exec.expect("no panic");
        }
        for (id, ..) in all {
            // Some have ended.
            let _ = client.kill(id, "", 9).await;
            client.wait(id, "", DEADLINE).await.expect("it ends");
            client.delete(id, "").await.expect("Delete answers");
            client.forget(id).await.expect("the container is removed");
        }
    });
    assert!(!Path::new(&containerd.task_dir(containerd.namespace()).join("bomb")).exists());
}

/// The execs of one container.
const EXECS: usize = 200;

on_own_containerds!(
    a_later_guest_holds_nothing_of_an_earlier_one,
    guests_of_one_manager_have_different_random_numbers,
    a_container_reaches_nothing_of_its_neighbour,
    a_container_has_no_namespace_cgroup_or_descriptor_of_another,
    later_containers_survive_the_end_or_stop_of_the_zygote,
    a_container_that_misbehaves_delays_no_call_about_another,
);
