//! The limits of a running container change.

use wherry_e2e::images::{glutton, spin};
use wherry_e2e::on_dockers;
use wherry_testing::{DEADLINE, Daemon, Docker, Run, systemd_cgroups, wait_until};

/// Docker's statistics of a running container.
fn statistics(docker: &Docker, id: &str, field: &str) -> String {
    docker.docker(&["stats", "--no-stream", "--format", field, id]).success().trim().to_owned()
}

fn the_memory_limit_changes(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()).memory(64 << 20));
    let id = container.id();
    assert!(statistics(docker, id, "{{.MemUsage}}").ends_with("/ 64MiB"));
    let words = ["update", "--memory", "128m", "--memory-swap", "128m", id];
    docker.docker(&words).success();
    assert!(statistics(docker, id, "{{.MemUsage}}").ends_with("/ 128MiB"));
}

fn a_lower_limit_bites(docker: &Docker) {
    let container = docker.start(&Run::new(&glutton()).memory(32 << 20));
    assert_eq!(container.wait(), 137);
}

fn the_processors_and_processes_change(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()));
    let id = container.id();
    docker.docker(&["update", "--cpus", "0.25", "--pids-limit", "17", id]).success();
    assert_eq!(statistics(docker, id, "{{.PIDs}}"), "1");
    let groups =
        std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("runs");
    let line = |name: &str| {
        groups
            .lines()
            .find(|line| line.split(':').nth(1) == Some(name))
            .and_then(|line| line.splitn(3, ':').nth(2))
    };
    let (file, value) = match line("pids") {
        Some(path) => (format!("/sys/fs/cgroup/pids{path}/pids.max"), "17"),
        None => (format!("/sys/fs/cgroup{}/pids.max", line("").expect("a cgroup")), "17"),
    };
    assert_eq!(std::fs::read_to_string(file).expect("a limit").trim(), value);
}

fn a_changed_limit_outlasts_a_reload_of_systemd(docker: &Docker) {
    if !systemd_cgroups() {
        return;
    }
    let container = docker.start(&Run::new(&spin()).memory(64 << 20));
    let id = container.id();
    docker.docker(&["update", "--memory", "128m", "--memory-swap", "128m", id]).success();
    let systemctl = |words: &[&str]| {
        let output = std::process::Command::new("systemctl").args(words).output();
        let output = output.unwrap_or_else(|e| panic!("systemctl cannot be run: {e}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let scope = format!("docker-{id}.scope");
    wait_until("systemd knows the new limit", DEADLINE, || {
        systemctl(&["show", "--property=MemoryMax", &scope]) == "MemoryMax=134217728"
    });
    systemctl(&["daemon-reload"]);
    assert!(statistics(docker, id, "{{.MemUsage}}").ends_with("/ 128MiB"));
}

on_dockers!(
    the_memory_limit_changes,
    a_lower_limit_bites,
    the_processors_and_processes_change,
    a_changed_limit_outlasts_a_reload_of_systemd,
);
