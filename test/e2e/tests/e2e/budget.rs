//! The cost of a container: processes, programs, threads, memory, and executables. All of it is
//! counted: times are measured by `make bench`. A change that makes something smaller lowers its
//! number here, so that it stays small.

use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use wherry_e2e::images::{hello, kit};
use wherry_e2e::needs::are_met;
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Daemon, Run, Trace, Usage, bin_dir, engine,
    repository, stripped_size, wait_until,
};

/// The number of running containers: with few of them, shared pages hide the cost of each.
const RUNNING: usize = 20;
/// Of each container: the shim and the guest, with one thread each.
const PROCESSES: usize = 2;
const THREADS: usize = 2;
/// The programs of a life: the shim's `start`, the engine host, the shim's `delete`.
const PROGRAMS: usize = 3;
/// The processes of a life: those three, the daemon, the guest, and libcontainer's between host and
/// guest, which continues as another one in a cgroup of version 2.
const FORKED: usize = 7;
/// The shim without symbols, in bytes; no engine is in it, but the C library.
const SHIM: u64 = 3_950_000;
/// The shim of the shared mode, which serves its operator, too.
const MANAGER: u64 = 4_560_000;

/// The budgets that depend on the engine: `package.metadata.budget` in its `Cargo.toml`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Budget {
    /// The size of the engine host without symbols, in bytes.
    host_bytes: u64,
    /// The PSS of shim and guest of each of many running containers, in bytes.
    container_bytes: u64,
}

fn budget() -> Budget {
    let path = repository().join("shims").join(engine()).join("Cargo.toml");
    let manifest: toml::Table =
        fs::read_to_string(&path).expect("an engine's manifest").parse().expect("TOML");
    let budget = manifest["package"]["metadata"]["budget"].clone();
    budget.try_into().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn gone(containerd: &Containerd) {
    wait_until("the shim's end", DEADLINE, || Usage::pids(containerd).is_empty());
}

#[test]
fn a_life_takes_few_programs_and_processes() {
    if !are_met(module_path!(), "a_life_takes_few_programs_and_processes") {
        return;
    }
    let containerd = Containerd::start(ContainerdVersion::V2);
    // Unpacks the image, and compiles the module.
    containerd.run(&Run::new(&hello())).success();
    gone(&containerd);
    let calls = "--trace=execve,execveat,fork,vfork,clone,clone3";
    let options = ["--successful-only", "--signal=none", "--string-limit=200", calls];
    let trace = Trace::attach(&containerd, &[containerd.daemon_pid()], &options);
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    gone(&containerd);
    let lines = trace.lines();
    let (programs, others): (Vec<&str>, Vec<&str>) =
        lines.lines().partition(|line| line.contains("exec"));
    let forked = others.iter().filter(|line| !line.contains("CLONE_THREAD")).count();
    // It is executed by its descriptor.
    let host = "[\"wherry\", \"host\"";
    assert!(programs.iter().any(|line| line.contains(host)), "strace saw no host: {lines}");
    assert!(programs.len() <= PROGRAMS && forked <= FORKED, "{lines}");
}

#[test]
fn running_containers_take_little_and_rest() {
    if !are_met(module_path!(), "running_containers_take_little_and_rest") {
        return;
    }
    let containerd = Containerd::start(ContainerdVersion::V2);
    let run = Run::new(&kit(false)).args(&["sleep", "1000000"]);
    let containers: Vec<_> = (0..RUNNING).map(|_| containerd.start(&run)).collect();
    containers.iter().for_each(|container| container.wait_for_output("ready\n"));
    // The processes that started the containers end soon.
    wait_until("a shim and a guest for each, and nothing else", DEADLINE, || {
        let usage = Usage::of(&containerd);
        usage.shims + usage.others <= RUNNING * PROCESSES && usage.threads <= RUNNING * THREADS
    });
    wait_until("three seconds without a context switch", DEADLINE, || {
        let before = Usage::of(&containerd);
        thread::sleep(Duration::from_secs(3));
        before.waits == Usage::of(&containerd).waits
    });
    let usage = Usage::of(&containerd);
    let (each, most) = (usage.pss / RUNNING as u64, budget().container_bytes);
    assert_eq!((usage.shims, usage.others), (RUNNING, RUNNING));
    assert!(each > 0 && each <= most, "a container takes {each} bytes, its budget is {most}");
}

#[test]
fn executables_are_small() {
    let within = |program: &str, most: u64| {
        let size = stripped_size(&Path::new(&bin_dir()).join(program));
        assert!(size <= most, "{program} has {size} bytes without symbols, its budget is {most}");
    };
    within(&format!("containerd-shim-{}-v1", engine()), SHIM);
    within("containerd-shim-wherry-v1", SHIM);
    within(&format!("containerd-shim-{}d-v1", engine()), MANAGER);
    within(&format!("wherry-{}-host", engine()), budget().host_bytes);
}
