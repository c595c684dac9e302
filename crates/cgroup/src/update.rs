//! Changing the limits of a running container.

use std::fs;
use std::io::Write;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::{Cgroup, CgroupError, systemd};

impl Cgroup {
    /// Sets the limits in `resources`, in an order that the kernel accepts. Other limits stay.
    ///
    /// # Errors
    /// With the file and the value that the kernel refused.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if let Some(memory) = resources.memory() {
            match self {
                Cgroup::V1(_) => self.memory_v1(memory)?,
                Cgroup::V2(_) => self.memory_v2(memory)?,
            }
        }
        if let Some(cpu) = resources.cpu() {
            match self {
                Cgroup::V1(_) => self.cpu_v1(cpu)?,
                Cgroup::V2(_) => self.cpu_v2(cpu)?,
            }
            for (name, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                    self.set("cpuset", name, value)?;
                }
            }
        }
        if let Some(pids) = resources.pids() {
            let limit = pids.limit();
            self.set(
                "pids",
                "pids.max",
                &if limit > 0 { limit.to_string() } else { "max".into() },
            )?;
        }
        if let Cgroup::V2(directory) = self {
            systemd::set_properties(directory, resources);
        }
        Ok(())
    }

    /// Disables the OOM killer: a process that hits the memory limit waits instead of being killed.
    ///
    /// # Errors
    /// On version 2, which has no such setting.
    pub fn disable_oom_killer(&self) -> Result<(), CgroupError> {
        match self {
            Cgroup::V1(_) => self.set("memory", "memory.oom_control", "1"),
            Cgroup::V2(_) => Err(CgroupError::OomKiller),
        }
    }

    fn memory_v1(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const BOTH: &str = "memory.memsw.limit_in_bytes";
        let set = |name: &str, value: Option<i64>| match value {
            Some(value) if value != 0 => self.set("memory", name, &value.to_string()),
            _ => Ok(()),
        };
        // LIMIT must never exceed BOTH: raise BOTH first if LIMIT alone does not fit.
        let swap = memory.swap().filter(|_| self.has("memory", BOTH));
        if set(LIMIT, memory.limit()).is_ok() {
            set(BOTH, swap)?;
        } else {
            set(BOTH, swap)?;
            set(LIMIT, memory.limit())?;
        }
        set("memory.soft_limit_in_bytes", memory.reservation())
    }

    fn memory_v2(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let set = |name: &str, value: Option<i64>| match value {
            None | Some(0) => Ok(()),
            Some(value) if value < 0 => self.set("memory", name, "max"),
            Some(value) => self.set("memory", name, &value.to_string()),
        };
        match swap_v2(memory) {
            Some(0) if self.has("memory", "memory.swap.max") => {
                self.set("memory", "memory.swap.max", "0")?;
            }
            swap if self.has("memory", "memory.swap.max") => set("memory.swap.max", swap)?,
            _ => {}
        }
        set("memory.max", memory.limit())?;
        set("memory.low", memory.reservation())
    }

    fn cpu_v1(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            self.set("cpu", "cpu.shares", &shares.to_string())?;
        }
        if let Some(period) = cpu.period().filter(|period| *period > 0) {
            self.set("cpu", "cpu.cfs_period_us", &period.to_string())?;
        }
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            self.set("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        Ok(())
    }

    fn cpu_v2(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            self.set("cpu", "cpu.weight", &weight(shares).to_string())?;
        }
        let period = cpu.period().filter(|period| *period > 0);
        let quota = cpu.quota().filter(|quota| *quota != 0);
        if period.is_some() || quota.is_some() {
            let quota = match quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".to_owned(),
            };
            let period = period.map(|period| format!(" {period}")).unwrap_or_default();
            self.set("cpu", "cpu.max", &format!("{quota}{period}"))?;
        }
        Ok(())
    }

    pub(crate) fn has(&self, controller: &str, name: &str) -> bool {
        self.directory(controller).is_some_and(|directory| directory.join(name).exists())
    }

    pub(crate) fn set(&self, controller: &str, name: &str, value: &str) -> Result<(), CgroupError> {
        let missing = || CgroupError::no_controller(name, controller);
        let path = self.directory(controller).ok_or_else(missing)?.join(name);
        // Without O_CREAT, whose error in a cgroup is EACCES for a missing file.
        let file = fs::OpenOptions::new().write(true).truncate(true).open(&path);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|source| CgroupError::Set { path, value: value.to_owned(), source })
    }
}

/// Converts version 1's limit of memory plus swap, which a configuration has, to version 2's limit
/// of swap.
pub(crate) fn swap_v2(memory: &LinuxMemory) -> Option<i64> {
    match (memory.swap(), memory.limit()) {
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 => Some((swap - limit).max(0)),
        (Some(swap), _) if swap < 0 => Some(swap),
        _ => None,
    }
}

/// Version 2's weight (1 to 10,000) for version 1's shares (2 to 262,144), with runc's formula.
pub(crate) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(resources: &str) -> impl Fn(&str) -> String {
        let directory = tempfile::tempdir().unwrap();
        for name in ["memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max"] {
            fs::write(directory.path().join(name), "before").unwrap();
        }
        let group = Cgroup::V2(directory.path().to_owned());
        group.update(&serde_json::from_str(resources).unwrap()).unwrap();
        move |name| fs::read_to_string(directory.path().join(name)).unwrap()
    }

    #[test]
    fn what_is_not_named_stays() {
        let after = update(r#"{"memory":{"limit":1048576}}"#);
        assert_eq!(after("memory.max"), "1048576");
        assert_eq!(after("memory.swap.max"), "before");
        assert_eq!(after("cpu.max"), "before");
        assert_eq!(after("pids.max"), "before");
    }

    #[test]
    fn version_2_has_its_own_units() {
        let after = update(
            r#"{"memory":{"limit":100,"swap":300},"cpu":{"shares":1024,"quota":50000,"period":100000},"pids":{"limit":-1}}"#,
        );
        assert_eq!(after("memory.swap.max"), "200");
        assert_eq!(after("cpu.weight"), "39");
        assert_eq!(after("cpu.max"), "50000 100000");
        assert_eq!(after("pids.max"), "max");
    }

    #[test]
    fn swap_of_version_2_is_without_the_memory() {
        let swap = |text: &str| swap_v2(&serde_json::from_str(text).unwrap());
        assert_eq!(swap(r#"{"limit": 100, "swap": 300}"#), Some(200));
        assert_eq!(swap(r#"{"limit": 100, "swap": 100}"#), Some(0));
        assert_eq!(swap(r#"{"limit": 300, "swap": 100}"#), Some(0));
        assert_eq!(swap(r#"{"limit": 100, "swap": -1}"#), Some(-1));
        assert_eq!(swap(r#"{"swap": 300}"#), None, "the memory is not known");
        assert_eq!(swap(r#"{"limit": -1, "swap": 300}"#), None);
        assert_eq!(swap(r#"{"limit": 100}"#), None);
    }

    #[test]
    fn a_weight_is_within_the_range_of_version_2() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn unlimited_is_max_in_version_2_and_zero_changes_nothing() {
        let after = update(
            r#"{"memory":{"limit":-1,"swap":-1},"cpu":{"shares":0,"quota":-1,"period":50000}}"#,
        );
        assert_eq!((after("memory.max"), after("memory.swap.max")), ("max".into(), "max".into()));
        assert_eq!((after("cpu.weight"), after("cpu.max")), ("before".into(), "max 50000".into()));
        let after = update(r#"{"memory":{"limit":0},"cpu":{"quota":0}}"#);
        assert_eq!((after("memory.max"), after("cpu.max")), ("before".into(), "before".into()));
    }

    /// Updates a cgroup of version 1 whose memory controller has `files`.
    fn update_v1(files: &[&str], resources: &str) -> impl Fn(&str) -> String + use<> {
        let directory = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(directory.path().join(name), "before").unwrap();
        }
        let all = ["memory", "cpu", "cpuset", "pids"];
        let all = all.map(|name| (name.to_owned(), directory.path().to_owned()));
        let group = Cgroup::V1(all.into());
        group.update(&serde_json::from_str(resources).unwrap()).unwrap();
        move |name| fs::read_to_string(directory.path().join(name)).unwrap()
    }

    #[test]
    fn version_1_without_swap_accounting_takes_the_limit_of_memory_alone() {
        let resources = r#"{"memory":{"limit":100,"swap":200,"reservation":50}}"#;
        let files = ["memory.limit_in_bytes", "memory.soft_limit_in_bytes"];
        let after = update_v1(&files, resources);
        assert_eq!(after("memory.limit_in_bytes"), "100");
        assert_eq!(after("memory.soft_limit_in_bytes"), "50");
        let both = "memory.memsw.limit_in_bytes";
        let after = update_v1(&["memory.limit_in_bytes", both, files[1]], resources);
        assert_eq!(after(both), "200");
    }

    #[test]
    fn version_1_has_shares_quota_and_sets_of_processors() {
        let files =
            ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.cpus", "cpuset.mems"];
        let resources =
            r#"{"cpu":{"shares":512,"period":50000,"quota":-1,"cpus":"0-1","mems":""}}"#;
        let after = update_v1(&files, resources);
        let values = files.map(after);
        assert_eq!(values, ["512", "50000", "-1", "0-1", "before"]);
    }

    #[test]
    fn a_value_that_the_kernel_refuses_is_named_with_its_file() {
        // A cgroup without this file: it cannot be created.
        let directory = tempfile::tempdir().unwrap();
        let group = Cgroup::V2(directory.path().to_owned());
        let resources = serde_json::from_str(r#"{"pids":{"limit":5}}"#).unwrap();
        let text = group.update(&resources).unwrap_err().to_string();
        let path = directory.path().join("pids.max");
        assert!(text.contains(&path.display().to_string()) && text.contains('5'), "{text}");
        assert!(!path.exists());
    }
}
