//! Changed limits of a systemd scope, passed to systemd: otherwise its next `daemon-reload` would
//! reset them.

use std::path::Path;
use std::process::{Command, Stdio};

use oci_spec::runtime::LinuxResources;

use crate::path::Scope;
use crate::update::{swap_v2, weight};

/// Sets the limits in `resources` as properties of the scope with the cgroup at `directory`, if it
/// is one. Does not wait for systemd: the limits are in effect already.
pub fn set_properties(directory: &Path, resources: &LinuxResources) {
    let Some(unit) = directory.file_name().and_then(|name| name.to_str()) else { return };
    let properties = properties(resources);
    if properties.is_empty() || !Scope::exists(unit) {
        return;
    }
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "--runtime", "set-property", unit]).args(properties);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The reaper of this process reaps it.
    if let Err(error) = command.spawn() {
        log::warn!("cannot set the properties of {unit}: cannot run systemctl: {error}");
    }
}

/// The limits as properties of a unit: see systemd.resource-control(5).
fn properties(resources: &LinuxResources) -> Vec<String> {
    let mut properties = Vec::new();
    let mut limit = |name: &str, value: Option<i64>| match value {
        None | Some(0) => {}
        Some(value) if value < 0 => properties.push(format!("{name}=infinity")),
        Some(value) => properties.push(format!("{name}={value}")),
    };
    if let Some(memory) = resources.memory() {
        limit("MemoryMax", memory.limit());
        limit("MemoryLow", memory.reservation());
        match swap_v2(memory) {
            Some(0) => properties.push("MemorySwapMax=0".to_owned()),
            swap => limit("MemorySwapMax", swap),
        }
    }
    if let Some(pids) = resources.pids() {
        let none = pids.limit() <= 0;
        properties.push(if none {
            "TasksMax=infinity".into()
        } else {
            format!("TasksMax={}", pids.limit())
        });
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            properties.push(format!("CPUWeight={}", weight(shares)));
        }
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
        match cpu.quota() {
            None | Some(0) => {}
            Some(quota) => {
                properties.push(format!("CPUQuotaPeriodSec={period}us"));
                // In hundredths of a percent; empty for no limit.
                let quota = u64::try_from(quota).map(|quota| quota.saturating_mul(10_000) / period);
                properties.push(quota.map_or_else(
                    |_| "CPUQuota=".to_owned(),
                    |part| format!("CPUQuota={}.{:02}%", part / 100, part % 100),
                ));
            }
        }
        for (name, value) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                properties.push(format!("{name}={value}"));
            }
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(resources: &str) -> String {
        properties(&serde_json::from_str(resources).unwrap()).join(" ")
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(set("{}"), "");
        assert_eq!(set(r#"{"cpu":{"shares":1024}}"#), "CPUWeight=39");
        assert_eq!(set(r#"{"memory":{"limit":4096}}"#), "MemoryMax=4096");
    }

    #[test]
    fn systemd_has_its_own_units() {
        let memory = r#"{"memory":{"limit":100,"swap":100},"pids":{"limit":-1}}"#;
        assert_eq!(set(memory), "MemoryMax=100 MemorySwapMax=0 TasksMax=infinity");
        let half = r#"{"cpu":{"quota":12500,"period":50000,"cpus":"0-1"}}"#;
        assert_eq!(set(half), "CPUQuotaPeriodSec=50000us CPUQuota=25.00% AllowedCPUs=0-1");
        assert_eq!(set(r#"{"cpu":{"quota":-1}}"#), "CPUQuotaPeriodSec=100000us CPUQuota=");
    }
}
