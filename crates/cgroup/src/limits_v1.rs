//! The limits of an empty cgroup of version 1. See the kernel's documentation of cgroup-v1.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources,
    LinuxThrottleDevice,
};

use crate::{Cgroup, CgroupError};

/// The devices that every container may use, as with runc: mknod of all, open of these.
const DEVICES: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    // null, zero, full, random, urandom, tty, console and ptmx
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    // pts/*
    "c 136:* rwm",
    // net/tun
    "c 10:200 rwm",
];

impl Cgroup {
    /// Sets all limits in `limits`.
    ///
    /// # Errors
    /// With the file and the value that the kernel refused, or the missing controller.
    pub(crate) fn limit_v1(&self, limits: &LinuxResources) -> Result<(), CgroupError> {
        self.update(limits)?;
        limits.memory().as_ref().map_or(Ok(()), |memory| self.limit_memory(memory))?;
        limits.cpu().as_ref().map_or(Ok(()), |cpu| self.limit_cpu(cpu))?;
        limits.block_io().as_ref().map_or(Ok(()), |io| self.limit_io(io))?;
        limits.network().as_ref().map_or(Ok(()), |network| self.mark_packets(network))?;
        for limit in limits.hugepage_limits().iter().flatten() {
            self.limit_huge_pages(limit)?;
        }
        for device in limits.devices().iter().flatten() {
            let file = if device.allow() { "devices.allow" } else { "devices.deny" };
            self.set("devices", file, &device.to_string())?;
        }
        DEVICES.into_iter().try_for_each(|device| self.set("devices", "devices.allow", device))
    }

    fn limit_memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        // -1 means unset.
        if let Some(swappiness) = memory.swappiness().filter(|value| *value != u64::MAX) {
            self.set("memory", "memory.swappiness", &swappiness.to_string())?;
        }
        for (file, limit) in [
            ("memory.kmem.limit_in_bytes", not_zero(memory.kernel())),
            ("memory.kmem.tcp.limit_in_bytes", not_zero(memory.kernel_tcp())),
        ] {
            if let Some(limit) = limit {
                self.set("memory", file, &limit)?;
            }
        }
        Ok(())
    }

    fn limit_cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        for (file, value) in [
            ("cpu.cfs_burst_us", cpu.burst().map(|burst| burst.to_string())),
            ("cpu.rt_period_us", not_zero(cpu.realtime_period())),
            ("cpu.rt_runtime_us", not_zero(cpu.realtime_runtime())),
            ("cpu.idle", cpu.idle().map(|idle| idle.to_string())),
        ] {
            if let Some(value) = value {
                self.set("cpu", file, &value)?;
            }
        }
        Ok(())
    }

    fn limit_io(&self, io: &LinuxBlockIo) -> Result<(), CgroupError> {
        if let Some(weight) = not_zero(io.weight()) {
            let bfq = self.has("blkio", "blkio.bfq.weight");
            self.set("blkio", if bfq { "blkio.bfq.weight" } else { "blkio.weight" }, &weight)?;
        }
        let rates = [
            ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
        ];
        for (file, devices) in rates {
            for device in devices.iter().flatten() {
                self.set("blkio", file, &rate(device))?;
            }
        }
        Ok(())
    }

    fn mark_packets(&self, network: &LinuxNetwork) -> Result<(), CgroupError> {
        if let Some(class) = network.class_id() {
            self.set("net_cls", "net_cls.classid", &class.to_string())?;
        }
        // One write per line.
        for priority in network.priorities().iter().flatten() {
            self.set("net_prio", "net_prio.ifpriomap", priority.to_string().trim())?;
        }
        Ok(())
    }

    fn limit_huge_pages(&self, limit: &LinuxHugepageLimit) -> Result<(), CgroupError> {
        let size = limit.page_size();
        if size.contains('/') {
            return Err(CgroupError::HugePageSize(size.clone()));
        }
        let value = limit.limit().to_string();
        self.set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), &value)?;
        let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        if self.has("hugetlb", &reserved) { self.set("hugetlb", &reserved, &value) } else { Ok(()) }
    }
}

/// Zero means unset.
fn not_zero<T: Default + PartialEq + ToString>(value: Option<T>) -> Option<String> {
    value.filter(|value| *value != T::default()).map(|value| value.to_string())
}

fn rate(device: &LinuxThrottleDevice) -> String {
    format!("{}:{} {}", device.major(), device.minor(), device.rate())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_limit_goes_to_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let controllers = ["blkio", "cpu", "devices", "hugetlb", "memory", "net_cls", "net_prio"];
        let all = controllers.map(|name| (name.to_owned(), directory.path().to_owned()));
        let limits = r#"{
            "memory": {"swappiness": 10, "kernelTCP": 4096},
            "cpu": {"burst": 1, "realtimeRuntime": 2, "realtimePeriod": 3, "idle": 1},
            "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 9}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 7}],
            "network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 6}]},
            "devices": [{"allow": false, "access": "rwm"}]
        }"#;
        let expected = [
            ("memory.swappiness", "10"),
            ("memory.kmem.tcp.limit_in_bytes", "4096"),
            ("cpu.cfs_burst_us", "1"),
            ("cpu.rt_runtime_us", "2"),
            ("cpu.rt_period_us", "3"),
            ("cpu.idle", "1"),
            ("blkio.weight", "100"),
            ("blkio.throttle.read_bps_device", "8:1 9"),
            ("hugetlb.2MB.limit_in_bytes", "7"),
            ("net_cls.classid", "5"),
            ("net_prio.ifpriomap", "eth0 6"),
            ("devices.deny", "a *:* rwm"),
            ("devices.allow", "c 10:200 rwm"),
        ];
        for (file, _) in expected {
            fs::write(directory.path().join(file), "").unwrap();
        }
        Cgroup::V1(all.into()).limit_v1(&serde_json::from_str(limits).unwrap()).unwrap();
        for (file, value) in expected {
            assert_eq!(fs::read_to_string(directory.path().join(file)).unwrap(), value, "{file}");
        }
    }

    #[test]
    fn what_the_host_does_not_have_is_named() {
        let limits = serde_json::from_str(r#"{"network": {"classID": 5}}"#).unwrap();
        let refused = Cgroup::V1([].into()).limit_v1(&limits).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cannot set net_cls.classid: this host has no net_cls controller"
        );
    }

    #[test]
    fn values_that_mean_unset_are_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let controllers = ["blkio", "cpu", "devices", "memory"];
        let all = controllers.map(|name| (name.to_owned(), directory.path().to_owned()));
        fs::write(directory.path().join("devices.allow"), "").unwrap();
        // None of these files exists: a write would fail.
        let limits = r#"{
            "memory": {"swappiness": 18446744073709551615, "kernel": 0, "kernelTCP": 0},
            "cpu": {"realtimeRuntime": 0, "realtimePeriod": 0},
            "blockIO": {"weight": 0}
        }"#;
        Cgroup::V1(all.into()).limit_v1(&serde_json::from_str(limits).unwrap()).unwrap();
    }

    #[test]
    fn the_name_of_a_page_size_cannot_leave_the_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let all = [("hugetlb".to_owned(), directory.path().to_owned())];
        let limits = r#"{"hugepageLimits": [{"pageSize": "../x", "limit": 7}]}"#;
        let limits = serde_json::from_str(limits).unwrap();
        let refused = Cgroup::V1(all.into()).limit_v1(&limits).unwrap_err().to_string();
        assert!(refused.contains("../x"), "{refused}");
    }
}
