//! The machine of a run, and its load from other processes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use wherry_testing::{ContainerdVersion, DockerVersion, daemon_bin, repository};

/// The duration of the measurement of the load.
const WATCHED: Duration = Duration::from_secs(2);
/// The accepted share of the processors' time that other processes use.
pub(crate) const QUIET: f64 = 0.10;

/// The facts about the machine that a reader of the figures needs.
pub(crate) fn facts() -> Value {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    json!({
        "cores": cores,
        "processor": field("/proc/cpuinfo", "model name"),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": text("/proc/sys/kernel/osrelease"),
        "system": field("/etc/os-release", "PRETTY_NAME").trim_matches('"'),
        "cgroup": if v2 { "v2" } else { "v1" },
        "wherry": said(Command::new("git").arg("-C").arg(repository()).args(["describe", "--always", "--dirty"])),
        "containerd": version(&daemon_bin(ContainerdVersion::V2.name()).join("containerd")),
        "docker": version(&daemon_bin(DockerVersion::V28.name()).join("dockerd")),
        "runc": version(&daemon_bin("runc").join("runc")),
        "date": said(Command::new("date").args(["--utc", "+%F %R UTC"])),
    })
}

/// The share of the processors' time that is used while this program only waits.
pub(crate) fn load() -> f64 {
    let before = times();
    thread::sleep(WATCHED);
    let after = times();
    let (idle, all) = (after.0 - before.0, after.1 - before.1);
    if all == 0.0 { 1.0 } else { 1.0 - idle / all }
}

/// The idle time of the processors, and their total time, in ticks.
fn times() -> (f64, f64) {
    let stat = text("/proc/stat");
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // The fourth is idle, the fifth waits for a disk; the ninth and tenth are part of the first
    // two.
    (ticks.iter().skip(3).take(2).sum(), ticks.iter().take(8).sum())
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of a file of lines like `name : value` or `name=value`.
fn field(path: &str, name: &str) -> String {
    let text = text(path);
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found.unwrap_or_default().trim_start_matches([' ', '\t', ':', '=']).trim().to_owned()
}

fn version(program: &Path) -> String {
    said(Command::new(program).arg("--version"))
}

/// The first line of a program's output.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}
