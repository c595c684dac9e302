//! The commands of `ctr task`.

use std::fs;
use wherry_e2e::images::{kit, spin};
use wherry_e2e::on_containerds;
use wherry_testing::{Client, Containerd, DEADLINE, Daemon, Run, wait_until};

fn sleeping() -> Run {
    Run::new(&kit(false)).args(&["sleep", "100000"])
}

/// The pid and the state in `ctr task ls`.
fn listed(containerd: &Containerd, id: &str) -> Option<(i32, String)> {
    let list = containerd.ctr(&["task", "ls"]).success();
    let mut lines = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = lines.find(|words| words.first() == Some(&id))?;
    Some((words[1].parse().expect("a pid"), words[2].to_owned()))
}

fn ls_shows_a_tasks_state(containerd: &Containerd) {
    let container = containerd.start(&sleeping());
    let (id, pid) = (container.id(), container.pid());
    let shows = |state: &str| assert_eq!(listed(containerd, id), Some((pid, state.to_owned())));
    shows("RUNNING");
    containerd.ctr(&["task", "pause", id]).success();
    shows("PAUSED");
    containerd.ctr(&["task", "resume", id]).success();
    shows("RUNNING");
    containerd.ctr(&["task", "kill", id]).success();
    wait_until("its end", DEADLINE, || container.ended());
    shows("STOPPED");
    let said = containerd.ctr(&["task", "rm", id]);
    assert!(said.err().contains("exit code 143"), "{said}");
    assert_eq!(listed(containerd, id), None);
}

fn rm_leaves_a_running_task_alone_unless_forced(containerd: &Containerd) {
    let container = containerd.start(&sleeping());
    let refused = containerd.ctr(&["task", "rm", container.id()]);
    assert!(!container.ended(), "{refused}");
    containerd.ctr(&["task", "rm", "--force", container.id()]).success();
    assert_eq!(listed(containerd, container.id()), None);
}

fn a_container_has_one_task_after_another(containerd: &Containerd) {
    let image = kit(false).pack();
    containerd.load(&image);
    let (id, runtime) = (containerd.new_id(), wherry_testing::runtime());
    let words = ["containers", "create", "--runtime", &runtime, &image.reference, &id];
    containerd.ctr(&[&words[..], &["/app.wasm", "exit", "6"]].concat()).success();
    for _ in 0..2 {
        assert_eq!(containerd.ctr(&["task", "start", &id]).code, 6);
    }
    containerd.ctr(&["containers", "rm", &id]).success();
}

fn ps_lists_every_process_and_kill_reaches_one(containerd: &Containerd) {
    let container = containerd.start(&sleeping());
    let (id, first) = (container.id(), container.pid().to_string());
    let words = ["task", "exec", "--exec-id", "beside", id, "/app.wasm", "spin"];
    let beside = Client::start(containerd.ctr_command(&words));
    beside.wait_for("ready\n");
    let list = containerd.ctr(&["task", "ps", id]).success();
    let lines: Vec<&str> = list.lines().skip(1).collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert!(lines.iter().any(|line| line.split_whitespace().next() == Some(&first)), "{list}");
    let other = lines.iter().find(|line| !line.starts_with(&first)).expect("another");
    assert!(other.contains("beside"), "{list}");
    let pid = other.split_whitespace().next().expect("a pid");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
    assert!(command.contains("spin"), "{command}");
    containerd.ctr(&["task", "kill", "--exec-id", "beside", id]).success();
    assert_eq!(beside.end().code, 143);
    assert!(!container.ended());
}

fn metrics_are_the_kernels_numbers(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()).memory(64 << 20));
    let metrics = || {
        let table = containerd.ctr(&["task", "metrics", container.id()]).success();
        move |names: [&str; 2]| {
            let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let found =
                lines.into_iter().find(|words| words.first().is_some_and(|w| names.contains(w)));
            let value = found.and_then(|words| words.get(1)?.parse::<u64>().ok());
            value.unwrap_or_else(|| panic!("no {names:?}: {table}"))
        }
    };
    let first = metrics();
    assert_eq!(first(["memory.limit_in_bytes", "memory.usage_limit"]), 64 << 20);
    let memory = first(["memory.usage_in_bytes", "memory.usage"]);
    assert!(memory > 0 && memory < 64 << 20);
    assert!(first(["pids.current", "pids.current"]) >= 1);
    let cpu =
        |metrics: &dyn Fn([&'static str; 2]) -> u64| metrics(["cpuacct.usage", "cpu.usage_usec"]);
    let before = cpu(&first);
    wait_until("it has computed more", DEADLINE, || cpu(&metrics()) > before);
    let json = containerd.ctr(&["task", "metrics", "--format", "json", container.id()]).success();
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
}

fn a_checkpoint_is_refused_and_the_task_goes_on(containerd: &Containerd) {
    let container = containerd.start(&sleeping());
    let refused = containerd.ctr(&["task", "checkpoint", container.id()]).failure();
    assert!(refused.contains("checkpoint"), "{refused}");
    wait_until("it computes again", DEADLINE, || {
        listed(containerd, container.id()).is_some_and(|(_, state)| state == "RUNNING")
    });
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

on_containerds!(
    ls_shows_a_tasks_state,
    rm_leaves_a_running_task_alone_unless_forced,
    a_container_has_one_task_after_another,
    ps_lists_every_process_and_kill_reaches_one,
    metrics_are_the_kernels_numbers,
    a_checkpoint_is_refused_and_the_task_goes_on,
);
