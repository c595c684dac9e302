//! Checks of the machine: kernel, cgroups, limits, security modules, the cache's disk.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Checked, Findings};
use crate::root::HostRoot;

/// The oldest kernel that the tests run on. It has cgroup.kill, close_range and clone3 into a
/// cgroup.
const KERNEL: (u32, u32) = (5, 10);
const CACHE: &str = "/var/lib/wherry/cache";
/// The cache keeps at most 2 GiB; below this a large module may not fit.
const FREE: u64 = 1 << 30;
/// A container is two processes, a pod one more; a node of 110 pods and their native containers
/// stays far below.
const TASKS: u64 = 8192;

/// Checks that need no containerd.
pub(super) fn check(root: &HostRoot, findings: &mut Findings) {
    kernel(&read(root, "/proc/sys/kernel/osrelease"), findings);
    if root.exists("/sys/fs/cgroup/cgroup.controllers") {
        findings.ok("cgroups", "version 2");
    } else {
        findings.warn(
            "cgroups",
            "version 1, which kubelet 1.35 and newer refuse by default and containerd removes by May 2029",
            "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in the kubelet's configuration",
        );
    }
    if read(root, "/sys/module/apparmor/parameters/enabled").trim() == "Y" {
        findings.ok("AppArmor", "on; the profile of a container applies to a wasm guest too");
    }
}

fn kernel(release: &str, findings: &mut Findings) {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= KERNEL => {
            findings.ok("kernel", release)
        }
        (Some(Ok(_)), Some(Ok(_))) => findings.fail(
            "kernel",
            format!("{release} is older than {}.{}", KERNEL.0, KERNEL.1),
            "upgrade the kernel",
        ),
        _ => findings.skip("kernel", "/proc/sys/kernel/osrelease cannot be read"),
    }
}

/// Limits of processes and threads.
pub(super) fn check_limits(checked: &Checked, findings: &mut Findings) {
    let root = &checked.node.root;
    for file in ["pid_max", "threads-max"] {
        let number = read(root, &format!("/proc/sys/kernel/{file}"));
        match number.trim().parse::<u64>() {
            Ok(number) if number >= 4 * TASKS => findings.ok(file, number.to_string()),
            Ok(number) => findings.warn(
                file,
                format!("{number} processes and threads are few for a node"),
                &format!("raise it: sysctl -w kernel.{file}=4194304"),
            ),
            Err(_) => findings.skip(file, format!("/proc/sys/kernel/{file} cannot be read")),
        }
    }
    match checked.tasks_max {
        None => findings.skip("TasksMax", "systemd does not report the limit of containerd's unit"),
        Some(number) if number < TASKS => findings.warn(
            "TasksMax",
            format!("containerd's unit may have {number} tasks: shims are among them"),
            "set TasksMax=infinity in the unit, as containerd's own unit file has it",
        ),
        Some(_) => {
            findings.ok("TasksMax", "containerd's unit may have as many tasks as a node needs")
        }
    }
}

/// The directory of compiled code and its filesystem.
pub(super) fn check_cache(checked: &Checked, findings: &mut Findings) {
    let path = checked.variable("WHERRY_CACHE_DIR").unwrap_or(CACHE);
    let Ok(folder) = checked.node.root.resolve(Path::new(path)) else { return };
    let Some(existing) = folder.ancestors().find(|above| above.exists()) else { return };
    let Ok(of) = statvfs(existing) else {
        return findings.skip("cache", format!("the free space of {path} is unknown"));
    };
    let free = of.blocks_available() * of.fragment_size();
    if of.flags().contains(FsFlags::ST_RDONLY) {
        findings.warn(
            "cache",
            format!("{path} is on a read-only filesystem: each start compiles its module again"),
            "set WHERRY_CACHE_DIR in the environment of containerd's unit to a directory that can be written",
        );
    } else if free < FREE {
        findings.warn(
            "cache",
            format!(
                "{path} has {} MiB free: code that does not fit is compiled at each start",
                free >> 20
            ),
            "make room, or set WHERRY_CACHE_DIR in the environment of containerd's unit",
        );
    } else {
        findings.ok("cache", format!("{path}, {} MiB free", free >> 20));
    }
}

/// Reads a file of the host. Empty if it cannot be read.
fn read(root: &HostRoot, path: &str) -> String {
    let path = root.resolve(Path::new(path));
    path.ok().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, level) in [
            ("6.18.44-fc-v657\n", Level::Ok),
            ("5.10.0-28-amd64", Level::Ok),
            ("5.4.0-81-generic", Level::Fail),
            ("", Level::Skip),
        ] {
            let mut findings = Findings::default();
            kernel(release, &mut findings);
            assert_eq!(findings.0[0].level, level, "{release}");
        }
    }
}
