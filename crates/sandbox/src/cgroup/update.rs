//! Changing the limits of a container that runs.

use std::fs;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::{Cgroup, told};

impl Cgroup {
    /// Sets the limits that `resources` names, in an order in which the kernel takes them; the
    /// others stay.
    ///
    /// # Errors
    /// A sentence with the file and the value that the kernel refused.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), String> {
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
            told::tell(directory, resources);
        }
        Ok(())
    }

    /// Has the kernel let its processes wait when memory is out, in place of killing one.
    ///
    /// # Errors
    /// A sentence. Version 2 knows nothing like it.
    pub fn disable_oom_killer(&self) -> Result<(), String> {
        match self {
            Cgroup::V1(_) => self.set("memory", "memory.oom_control", "1"),
            Cgroup::V2(_) => {
                Err("cannot disable the OOM killer: cgroup version 2 knows nothing like it".into())
            }
        }
    }

    fn memory_v1(&self, memory: &LinuxMemory) -> Result<(), String> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const BOTH: &str = "memory.memsw.limit_in_bytes";
        let set = |name: &str, value: Option<i64>| match value {
            Some(value) if value != 0 => self.set("memory", name, &value.to_string()),
            _ => Ok(()),
        };
        // The one limit may not be above the other at any moment: a higher one goes first where
        // it makes room.
        let swap = memory.swap().filter(|_| self.has("memory", BOTH));
        if set(LIMIT, memory.limit()).is_ok() {
            set(BOTH, swap)?;
        } else {
            set(BOTH, swap)?;
            set(LIMIT, memory.limit())?;
        }
        set("memory.soft_limit_in_bytes", memory.reservation())
    }

    fn memory_v2(&self, memory: &LinuxMemory) -> Result<(), String> {
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

    fn cpu_v1(&self, cpu: &LinuxCpu) -> Result<(), String> {
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

    fn cpu_v2(&self, cpu: &LinuxCpu) -> Result<(), String> {
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

    pub(super) fn has(&self, controller: &str, name: &str) -> bool {
        self.directory(controller).is_some_and(|directory| directory.join(name).exists())
    }

    pub(super) fn set(&self, controller: &str, name: &str, value: &str) -> Result<(), String> {
        let directory = self.directory(controller).ok_or_else(|| {
            format!("cannot set {name}: this host has no {controller} controller")
        })?;
        let path: &Path = &directory.join(name);
        // Not made where it is missing: the kernel would say that this is forbidden.
        let file = fs::OpenOptions::new().write(true).truncate(true).open(path);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|error| format!("cannot set {} to {value}: {error}", path.display()))
    }
}

/// Version 2's limit of swap alone. Version 1 counts memory and swap together, and that is how it is
/// configured.
pub(super) fn swap_v2(memory: &LinuxMemory) -> Option<i64> {
    match (memory.swap(), memory.limit()) {
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 => Some((swap - limit).max(0)),
        (Some(swap), _) if swap < 0 => Some(swap),
        _ => None,
    }
}

/// Version 2's weight (1 to 10,000) for version 1's shares (2 to 262,144), as runc reckons it.
pub(super) fn weight(shares: u64) -> u64 {
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
}
