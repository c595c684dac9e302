//! The statistics of a cgroup, read from the kernel's files.
//!
//! A file that this kernel does not have, or a controller that is not in use, counts as zero.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Cgroup;

/// The values of a file of lines `key value`.
pub type Keyed = HashMap<String, u64>;

/// The statistics of a cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Usage {
    /// As cgroup version 1 counts.
    V1(Box<V1>),
    /// As cgroup version 2 counts.
    V2(Box<V2>),
}

/// Version 1. Times are nanoseconds, sizes bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct V1 {
    /// `cpuacct.usage`.
    pub cpu_total: u64,
    /// `cpuacct.usage_percpu`.
    pub cpu_each: Vec<u64>,
    /// `cpuacct.usage_user`.
    pub cpu_user: u64,
    /// `cpuacct.usage_sys`.
    pub cpu_kernel: u64,
    /// `cpu.stat`.
    pub throttling: Keyed,
    /// `memory.stat`.
    pub memory: Keyed,
    /// `memory.oom_control`.
    pub oom_control: Keyed,
    /// `memory.*`.
    pub memory_usage: Counter,
    /// `memory.memsw.*`.
    pub swap: Counter,
    /// `memory.kmem.*`.
    pub kernel: Counter,
    /// `memory.kmem.tcp.*`.
    pub kernel_tcp: Counter,
    /// `pids.current` and `pids.max`, 0 for no limit.
    pub pids: (u64, u64),
    /// `blkio.throttle.io_service_bytes_recursive`.
    pub io_bytes: Vec<IoEntry>,
    /// `blkio.throttle.io_serviced_recursive`.
    pub io_operations: Vec<IoEntry>,
}

/// A resource with its limit, in version 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// `limit_in_bytes`.
    pub limit: u64,
    /// `usage_in_bytes`.
    pub usage: u64,
    /// `max_usage_in_bytes`.
    pub max: u64,
    /// `failcnt`.
    pub failures: u64,
}

/// One line of a block device's counts, in version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoEntry {
    /// The device's major and minor number.
    pub device: (u64, u64),
    /// `Read`, `Write` and so on.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Version 2. Times are microseconds, sizes bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct V2 {
    /// `cpu.stat`.
    pub cpu: Keyed,
    /// `memory.stat`.
    pub memory: Keyed,
    /// `memory.events`.
    pub memory_events: Keyed,
    /// `memory.current`.
    pub memory_usage: u64,
    /// `memory.max`; `u64::MAX` for no limit.
    pub memory_limit: u64,
    /// `memory.peak`.
    pub memory_peak: u64,
    /// `memory.swap.current`.
    pub swap_usage: u64,
    /// `memory.swap.max`; `u64::MAX` for no limit.
    pub swap_limit: u64,
    /// `pids.current` and `pids.max`, 0 for no limit.
    pub pids: (u64, u64),
    /// `io.stat`, for each device.
    pub io: Vec<((u64, u64), Keyed)>,
}

impl Usage {
    /// The number of out-of-memory kills.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let counts = match self {
            Usage::V1(usage) => &usage.oom_control,
            Usage::V2(usage) => &usage.memory_events,
        };
        counts.get("oom_kill").copied().unwrap_or(0)
    }
}

impl Cgroup {
    /// Reads the statistics.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self {
            Cgroup::V1(_) => Usage::V1(Box::new(self.usage_v1())),
            Cgroup::V2(directory) => Usage::V2(Box::new(usage_v2(directory))),
        }
    }

    /// The number of out-of-memory kills. None if the cgroup is gone.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let file =
            if matches!(self, Cgroup::V1(_)) { "memory.oom_control" } else { "memory.events" };
        let path = self.directory("memory")?.join(file);
        path.exists().then(|| keyed(&path).get("oom_kill").copied().unwrap_or(0))
    }

    fn usage_v1(&self) -> V1 {
        let file = |controller: &str, name: &str| -> PathBuf {
            self.directory(controller).map(|directory| directory.join(name)).unwrap_or_default()
        };
        let counter = |prefix: &str| {
            let part =
                |what: &str| number(&file("memory", &format!("{prefix}.{what}"))).unwrap_or(0);
            Counter {
                limit: part("limit_in_bytes"),
                usage: part("usage_in_bytes"),
                max: part("max_usage_in_bytes"),
                failures: part("failcnt"),
            }
        };
        V1 {
            cpu_total: number(&file("cpuacct", "cpuacct.usage")).unwrap_or(0),
            cpu_each: read(&file("cpuacct", "cpuacct.usage_percpu"))
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect(),
            cpu_user: number(&file("cpuacct", "cpuacct.usage_user")).unwrap_or(0),
            cpu_kernel: number(&file("cpuacct", "cpuacct.usage_sys")).unwrap_or(0),
            throttling: keyed(&file("cpu", "cpu.stat")),
            memory: keyed(&file("memory", "memory.stat")),
            oom_control: keyed(&file("memory", "memory.oom_control")),
            memory_usage: counter("memory"),
            swap: counter("memory.memsw"),
            kernel: counter("memory.kmem"),
            kernel_tcp: counter("memory.kmem.tcp"),
            pids: pids(&file("pids", "pids.current"), &file("pids", "pids.max")),
            io_bytes: io_v1(&read(&file("blkio", "blkio.throttle.io_service_bytes_recursive"))),
            io_operations: io_v1(&read(&file("blkio", "blkio.throttle.io_serviced_recursive"))),
        }
    }
}

fn usage_v2(directory: &Path) -> V2 {
    let file = |name: &str| directory.join(name);
    V2 {
        cpu: keyed(&file("cpu.stat")),
        memory: keyed(&file("memory.stat")),
        memory_events: keyed(&file("memory.events")),
        memory_usage: number(&file("memory.current")).unwrap_or(0),
        memory_limit: number(&file("memory.max")).unwrap_or(u64::MAX),
        memory_peak: number(&file("memory.peak")).unwrap_or(0),
        swap_usage: number(&file("memory.swap.current")).unwrap_or(0),
        swap_limit: number(&file("memory.swap.max")).unwrap_or(u64::MAX),
        pids: pids(&file("pids.current"), &file("pids.max")),
        io: io_v2(&read(&file("io.stat"))),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Parses the number in a file. None for `max` and for a missing file.
fn number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

fn pids(current: &Path, limit: &Path) -> (u64, u64) {
    (number(current).unwrap_or(0), number(limit).unwrap_or(0))
}

/// Parses a file of lines `key value`.
#[must_use]
pub fn keyed(path: &Path) -> Keyed {
    read(path).lines().filter_map(|line| pair(line, ' ')).collect()
}

fn pair(text: &str, separator: char) -> Option<(String, u64)> {
    let (key, value) = text.split_once(separator)?;
    Some((key.to_owned(), value.trim().parse().ok()?))
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Parses lines `8:0 Read 4096`. The last line, `Total 4096`, has no device.
fn io_v1(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        Some(IoEntry {
            device: device(words.next()?)?,
            operation: words.next()?.to_owned(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Parses lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_v2(text: &str) -> Vec<((u64, u64), Keyed)> {
    let entry = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let counts = rest.split_whitespace().filter_map(|word| pair(word, '=')).collect();
        Some((device(name)?, counts))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_read_from_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 12\nuser_usec 7\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.events", "oom 1\noom_kill 2\n");
        write("pids.current", "3\n");
        write("pids.max", "10\n");
        write("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n");
        let group = Cgroup::V2(directory.path().to_owned());
        assert_eq!(group.usage().oom_kills(), 2);
        let Usage::V2(usage) = group.usage() else { panic!() };
        assert_eq!(usage.cpu["usage_usec"], 12);
        assert_eq!((usage.memory_usage, usage.memory_limit), (4096, u64::MAX));
        assert_eq!(usage.pids, (3, 10));
        assert_eq!(usage.io[0].0, (8, 0));
        assert_eq!(usage.io[0].1["wios"], 4);
        assert_eq!(usage.swap_usage, 0);
    }

    #[test]
    fn version_1_has_a_line_for_each_operation() {
        let entries = io_v1("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].operation, "Read");
        assert_eq!(entries[0].device, (8, 0));
        assert_eq!(entries[1].value, 1);
    }

    #[test]
    fn version_1_is_read_from_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("cpuacct.usage", "100\n");
        write("cpuacct.usage_percpu", "40 60 \n");
        write("cpu.stat", "nr_periods 3\n");
        write("memory.usage_in_bytes", "4096\n");
        write("memory.limit_in_bytes", "8192\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        write("pids.max", "max\n");
        let all = ["cpuacct", "cpu", "memory", "pids"];
        let all = all.map(|name| (name.to_owned(), directory.path().to_owned()));
        let group = Cgroup::V1(all.into());
        assert_eq!(group.oom_kills(), Some(2));
        let Usage::V1(usage) = group.usage() else { panic!("another version") };
        assert_eq!((usage.cpu_total, usage.cpu_each), (100, vec![40, 60]));
        assert_eq!(usage.throttling["nr_periods"], 3);
        assert_eq!((usage.memory_usage.usage, usage.memory_usage.limit), (4096, 8192));
        // No limit, no swap accounting, no blkio controller.
        assert_eq!((usage.pids, usage.swap), ((0, 0), Counter::default()));
        assert!(usage.io_bytes.is_empty());
    }

    #[test]
    fn lines_that_cannot_be_parsed_are_left_out() {
        assert!(io_v1("8:0 Read\nx:y Read 1\n8 Read 1\n\n").is_empty());
        let two = io_v2("8:0 rbytes=1 wbytes=x\nnonsense\n8:16\n");
        assert_eq!(two, [((8, 0), [("rbytes".to_owned(), 1)].into())]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stat");
        fs::write(&path, "a 1\nb\nc x\nd 2\n").unwrap();
        assert_eq!(keyed(&path), [("a".to_owned(), 1), ("d".to_owned(), 2)].into());
        assert!(keyed(&directory.path().join("missing")).is_empty());
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_count_of_kills() {
        assert_eq!(Cgroup::V2("/no/such/cgroup".into()).oom_kills(), None);
        assert_eq!(Cgroup::V1([].into()).oom_kills(), None);
    }
}
