//! Containers of one manager and each other: what they can reach, what a later one finds of an
//! earlier one, and that none delays the calls of another.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use wherry_e2e::images::{exit, glutton, guests_and_tools, hello, kit, spin, trap};
use wherry_e2e::managed::manager;
use wherry_e2e::on_own_containerds;
use wherry_testing::{
    Container, Containerd, DEADLINE, Daemon, Process, Run, guests, processes, wait_until,
};

/// The namespaces that each container has for itself.
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];

/// A text that no other process has in its memory: it is made from two halves when it is needed.
fn pattern() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("wherry-secret-{:x}", now.expect("a clock").as_nanos())
}

/// How often a text is in the memory of a process, and how many bytes were searched.
fn search(pid: i32, pattern: &str) -> (usize, usize) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("the process lives");
    let (mut found, mut searched) = (0, 0);
    let finder = pattern.as_bytes();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().expect("a range"), words.next().expect("rights"));
        let (start, end) = range.split_once('-').expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        let (mut at, end) = (number(start), number(end));
        if !rights.starts_with('r') {
            continue;
        }
        let mut buffer = vec![0; 1 << 20];
        // A page that was never touched reads as zeros; a special mapping cannot be read.
        while at < end {
            let size = buffer.len().min(usize::try_from(end - at).expect("64 bits"));
            let Ok(read) = memory.read_at(&mut buffer[..size], at) else { break };
            if read == 0 {
                break;
            }
            let bytes = &buffer[..read];
            found += bytes.windows(finder.len()).filter(|window| *window == finder).count();
            searched += read;
            // So that a text across the end of the buffer is found.
            let step = if read > finder.len() { read - finder.len() + 1 } else { read };
            at += u64::try_from(step).expect("64 bits");
            if read < size {
                break;
            }
            if at + u64::try_from(finder.len()).expect("64 bits") > end {
                break;
            }
        }
    }
    (found, searched)
}

/// The engine hosts that wait for a container.
fn spare_hosts(manager: &Process) -> Vec<Process> {
    let all = processes().into_iter();
    all.filter(|process| process.parent().is_some_and(|parent| parent.pid == manager.pid))
        .filter(|process| process.program().ends_with("-host"))
        .collect()
}

fn a_later_guest_has_nothing_of_an_earlier_one_in_its_memory(containerd: &Containerd) {
    let secret = pattern();
    let image = guests_and_tools()
        .file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
        .entrypoint(&["/kit.wasm"]);
    let file = image.clone().file("/secret", 0o644, secret.as_str());
    // In arguments, environment, a file that is read, and what an exec reads.
    let run = Run::new(&file).args(&["do", "read /secret", "sleep 1000", &secret]);
    let earlier = containerd.start(&run.env("SECRET", &secret));
    earlier.wait_for_output(&secret);
    let echoed = containerd.exec(earlier.id(), &["/cat.wasm"], secret.as_bytes());
    assert_eq!(echoed.success(), secret);
    let sh = containerd.exec(earlier.id(), &["/bin/sh", "-c", "cat /secret"], b"");
    assert_eq!(sh.success(), secret);
    let (found, _) = search(earlier.pid(), &secret);
    assert!(found > 0, "the search finds it where it is");

    // The spare hosts of before and those made since.
    for round in 0..4 {
        let later = containerd.start(&Run::new(&image).args(&["sleep", "1000"]));
        later.wait_for_output("ready");
        let (found, searched) = search(later.pid(), &secret);
        assert_eq!(found, 0, "in the guest of round {round}");
        assert!(searched > 100_000, "{searched} bytes were searched");
        for host in spare_hosts(&manager(containerd)) {
            // One that a container takes meanwhile is not spare any more.
            if Process::of(host.pid).is_some_and(|now| now == host) {
                assert_eq!(search(host.pid, &secret).0, 0, "in {host:?} in round {round}");
            }
        }
        later.remove();
    }
    earlier.remove();
}

fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    entries.flatten().filter_map(target).map(|path| path.display().to_string()).collect()
}

fn a_container_has_no_namespace_cgroup_or_descriptor_of_another(containerd: &Containerd) {
    let containers: Vec<Container> = (0..3).map(|_| containerd.start(&Run::new(&spin()))).collect();
    let manager = manager(containerd);
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

fn root_in_a_container_does_not_reach_another(containerd: &Containerd) {
    let secret = pattern();
    let image = guests_and_tools().entrypoint(&["/spin.wasm"]);
    let victim = containerd.start(&Run::new(&image.clone().file("/secret", 0o600, &*secret)));
    let attacker = containerd.start(&Run::new(&image));
    victim.wait_for_output("ready");
    attacker.wait_for_output("ready");
    let sh = |script: &str| containerd.exec(attacker.id(), &["/bin/sh", "-c", script], b"");
    // Processes: its own alone, and no signal arrives elsewhere.
    let seen = sh("ls /proc | grep -c '^[0-9]*$'").success();
    assert!(seen.trim().parse::<usize>().expect("a number") <= 5, "{seen}");
    let killed = sh(&format!("kill -9 {}", victim.pid()));
    assert!(killed.failure().contains("No such process"), "{killed}");
    // Files: neither by a path of the host nor through the root of a process.
    for path in [
        victim.bundle().join("rootfs/secret").display().to_string(),
        format!("/proc/{}/root/secret", victim.pid()),
        "/run/containerd/s".to_owned(),
        "/run/wherry-manager".to_owned(),
        "/var/lib/wherry/cache".to_owned(),
    ] {
        sh(&format!("ls {path}")).failure();
    }
    // Sockets in the abstract namespace belong to a network namespace.
    assert_eq!(sh("grep -c @ /proc/net/unix").out().trim(), "0");
    // Memory and kernel: what shows another's is masked or absent.
    for path in ["/dev/mem", "/dev/kmem", "/proc/kcore", "/proc/keys"] {
        let bytes = sh(&format!("head -c 100 {path} 2> /dev/null | wc -c")).success();
        assert_eq!(bytes.trim(), "0", "{path}");
    }
    assert!(!victim.ended());
    victim.remove();
    attacker.remove();
}

fn what_one_container_does_delays_no_call_of_another(containerd: &Containerd) {
    let quiet = containerd.start(&Run::new(&kit(false)).args(&["sleep", "1000"]));
    quiet.wait_for_output("ready");
    let bomb = containerd.start(&Run::new(&guests_and_tools().entrypoint(&["/spin.wasm"])));
    bomb.wait_for_output("ready");
    // Its output goes into a pipe without a reader.
    let flooded = containerd.start(&Run::new(&guests_and_tools().entrypoint(&["/flood.wasm"])));
    let many = containerd.start(&Run::new(&guests_and_tools().entrypoint(&["/spin.wasm"])));
    many.wait_for_output("ready");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let script = "n=0; while [ $n -lt 400 ]; do sleep 5 & n=$((n + 1)); done; wait";
            containerd.exec(bomb.id(), &["/bin/sh", "-c", script], b"");
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                containerd.run(&Run::new(&trap()));
                containerd.run(&Run::new(&exit(7)));
                containerd.run(&Run::new(&glutton()).memory(48 << 20));
            }
        });
        let execs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let outcome = containerd.exec(many.id(), &["/hello.wasm"], b"");
                        assert_eq!(outcome.success(), "hello\n");
                    }
                })
            })
            .collect();
        // State, Pids and a whole life, again and again meanwhile.
        while !execs.iter().all(|exec| exec.is_finished()) {
            let listed = containerd.ctr(&["tasks", "ps", quiet.id()]).success();
            assert!(listed.contains(&quiet.pid().to_string()), "{listed}");
            assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
        }
        done.store(true, Ordering::Relaxed);
    });
    for container in [quiet, bomb, flooded, many] {
        let pid = container.pid();
        container.remove();
        wait_until("the end of its process", DEADLINE, || Process::of(pid).is_none());
    }
}

on_own_containerds!(
    a_later_guest_has_nothing_of_an_earlier_one_in_its_memory,
    a_container_has_no_namespace_cgroup_or_descriptor_of_another,
    root_in_a_container_does_not_reach_another,
    what_one_container_does_delays_no_call_of_another,
);
