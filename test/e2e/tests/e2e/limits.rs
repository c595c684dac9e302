//! A container's limits apply to a guest, and exceeding them is reported.

use std::fs;
use std::path::Path;
use wherry_e2e::images::{glutton, hello, kit, spin};
use wherry_e2e::inside::field;
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers, tests_in};
use wherry_testing::{
    Containerd, DEADLINE, Daemon, Docker, Run, busybox, cgroup_parent, systemd_cgroups, wait_until,
};

const MEGABYTE: u64 = 1 << 20;

fn too_much_memory_ends_in_an_oom_kill(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&glutton()).memory(64 * MEGABYTE));
    assert_eq!(container.wait(), 137);
}

fn a_guest_within_its_memory_runs(daemon: &dyn Daemon) {
    assert_eq!(daemon.run(&Run::new(&hello()).memory(64 * MEGABYTE)).success(), "hello\n");
}

/// The value of a file in the container's cgroup, in the hierarchy of a v1 controller or in v2.
fn cgroup_value(pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let old = groups
        .lines()
        .find(|line| line.split(':').nth(1).is_some_and(|n| n.split(',').any(|c| c == controller)));
    let file = match old.and_then(path) {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{v1}"),
        None => {
            let unified = groups
                .lines()
                .find(|line| line.starts_with("0::"))
                .and_then(path)
                .expect("a cgroup");
            format!("/sys/fs/cgroup{unified}/{v2}")
        }
    };
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}")).trim().to_owned()
}

fn memory_and_cpu_limits_are_the_kernels(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()).memory(64 * MEGABYTE).cpus(0.1));
    let pid = container.pid();
    let memory = cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (64 * MEGABYTE).to_string());
    let cpu = match cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split_once(' ') {
        Some((quota, period)) => (quota.to_owned(), period.to_owned()),
        None => (
            cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max"),
            cgroup_value(pid, "cpu", "cpu.cfs_period_us", "cpu.max"),
        ),
    };
    assert_eq!(cpu, ("10000".to_owned(), "100000".to_owned()));
    // The quota takes effect on a busy machine too: a guest that computes without end is throttled.
    wait_until("the guest is throttled", DEADLINE, || {
        let stat = cgroup_value(pid, "cpu", "cpu.stat", "cpu.stat");
        stat.lines()
            .any(|line| line.strip_prefix("nr_throttled ").is_some_and(|count| count != "0"))
    });
}

/// The cgroup is the kernel's evidence; with systemd's driver systemd also has a scope of that
/// name.
fn its_cgroup_is_where_the_driver_says(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("it runs");
    let (id, parent) = (container.id(), cgroup_parent(daemon.containerd().namespace()));
    let path =
        groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.contains(id));
    let path = path.unwrap_or_else(|| panic!("no cgroup of {id}: {groups}"));
    if systemd_cgroups() {
        assert!(path.contains(&format!("/{parent}/")), "{path}");
        let scope = path.rsplit('/').next().expect("a name");
        assert!(scope.ends_with(&format!("-{id}.scope")), "{path}");
        let status =
            std::process::Command::new("systemctl").args(["is-active", "-q", scope]).status();
        assert!(status.is_ok_and(|status| status.success()), "systemd does not know {scope}");
    } else {
        assert_eq!(path, format!("{parent}/{id}"));
    }
}

fn a_device_that_it_was_not_given_cannot_be_opened(daemon: &dyn Daemon) {
    // The device of the kernel's log: creating its node is allowed, reading it is not.
    let script = "busybox mknod /kmsg c 1 11 && busybox head -c 1 /kmsg";
    let outcome = daemon.run(&Run::new(&busybox()).args(&["sh", "-c", script]));
    assert!(outcome.failure().contains("not permitted"), "{outcome}");
    let script = "busybox head -c 1 /dev/zero | busybox wc -c";
    let outcome = daemon.run(&Run::new(&busybox()).args(&["sh", "-c", script]));
    assert_eq!(outcome.success().trim(), "1");
}

on_all_daemons!(
    its_cgroup_is_where_the_driver_says,
    a_device_that_it_was_not_given_cannot_be_opened,
    too_much_memory_ends_in_an_oom_kill,
    a_guest_within_its_memory_runs,
    memory_and_cpu_limits_are_the_kernels,
);

mod containerd {
    use super::*;

    fn an_oom_kill_is_an_event(containerd: &Containerd) {
        let events = containerd.events();
        let container = containerd.start(&Run::new(&glutton()).memory(64 * MEGABYTE));
        wait_until("the OOM event", DEADLINE, || {
            events.topics(container.id()).contains(&"/tasks/oom".to_owned())
        });
        assert_eq!(container.wait(), 137);
    }

    /// The event is published at once, even if the container continues.
    fn the_kill_of_another_process_is_an_event(containerd: &Containerd) {
        let events = containerd.events();
        let run = Run::new(&kit(false)).args(&["sleep", "100000"]).memory(64 * MEGABYTE);
        let container = containerd.start(&run);
        let exec = containerd.exec(container.id(), &["/app.wasm", "alloc", "200"], b"");
        assert_eq!(exec.code, 137, "{exec}");
        let oom = || events.topics(container.id()).iter().filter(|t| *t == "/tasks/oom").count();
        // The kernel may notify twice of one kill, if the process takes a while to end.
        wait_until("the OOM event", DEADLINE, || oom() >= 1);
        assert!(!container.ended());
        let before = oom();
        container.kill("KILL");
        wait_until("the exit", DEADLINE, || {
            events.topics(container.id()).last().is_some_and(|topic| topic == "/tasks/exit")
        });
        assert_eq!(oom(), before, "the end of the container counts as a second kill");
    }

    on_containerds!(an_oom_kill_is_an_event, the_kill_of_another_process_is_an_event);
}

mod alone {
    use super::*;

    fn the_first_ones_may_be_many_at_once(containerd: &Containerd) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
                });
            }
        });
    }

    wherry_e2e::on_own_containerds!(the_first_ones_may_be_many_at_once);
}

mod docker {
    use super::*;

    fn an_oom_kill_is_shown(docker: &Docker) {
        let container = docker.start(&Run::new(&glutton()).memory(64 * MEGABYTE));
        assert_eq!(container.wait(), 137);
        let shown = || docker.inspect(container.id(), "{{.State.OOMKilled}}");
        wait_until("OOMKilled", DEADLINE, || shown().as_deref() == Some("true"));
    }

    fn a_limit_of_processes_holds(docker: &Docker) {
        let container = docker.start(&Run::new(&spin()).extra(&["--pids-limit", "40"]));
        assert_eq!(cgroup_value(container.pid(), "pids", "pids.max", "pids.max"), "40");
    }

    fn every_limit_of_memory_and_processors_is_the_kernels(docker: &Docker) {
        let words = "--memory 64m --memory-swap 80m --memory-reservation 32m --cpu-period 50000 \
                     --cpu-quota 20000 --cpu-shares 512 --cpuset-cpus 0 --cpuset-mems 0";
        let words: Vec<&str> = words.split_whitespace().collect();
        let container = docker.start(&Run::new(&kit(false)).args(&["sleep", "1000"]).extra(&words));
        let value = |controller, v1, v2| cgroup_value(container.pid(), controller, v1, v2);
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let swap = if unified { 16 } else { 80 } * MEGABYTE;
        let both = value("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        assert_eq!(both, swap.to_string());
        let reserved = value("memory", "memory.soft_limit_in_bytes", "memory.low");
        assert_eq!(reserved, (32 * MEGABYTE).to_string());
        let quota = value("cpu", "cpu.cfs_quota_us", "cpu.max");
        assert_eq!(quota, if unified { "20000 50000" } else { "20000" });
        if !unified {
            assert_eq!(value("cpu", "cpu.shares", ""), "512");
        }
        assert_eq!(value("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
        let status = docker.exec(container.id(), &["/app.wasm", "read", "/proc/1/status"], b"");
        assert_eq!(field(&status.success(), "Cpus_allowed_list"), ["0"]);
    }

    /// Only version 1 has it; Docker omits it on version 2.
    fn the_oom_killer_is_off_where_told(docker: &Docker) {
        let run = Run::new(&spin()).memory(64 * MEGABYTE).extra(&["--oom-kill-disable"]);
        let container = docker.start(&run);
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let control = cgroup_value(container.pid(), "memory", "memory.oom_control", "");
            assert!(control.starts_with("oom_kill_disable 1"), "{control}");
        }
    }

    fn a_native_program_feels_the_limit_of_processes(docker: &Docker) {
        let bomb = "i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done; echo all";
        let run = Run::new(&busybox()).args(&["sh", "-c", bomb]).extra(&["--pids-limit", "40"]);
        let outcome = docker.run(&run);
        assert!(!outcome.out().contains("all"), "{outcome}");
        assert!(outcome.err().contains("fork"), "{outcome}");
    }

    on_dockers!(
        an_oom_kill_is_shown,
        a_limit_of_processes_holds,
        every_limit_of_memory_and_processors_is_the_kernels,
        the_oom_killer_is_off_where_told,
        a_native_program_feels_the_limit_of_processes
    );
}

mod disk {
    use super::*;

    fn a_disk_is_read_at_the_rate_given(docker: &Docker) {
        let disks = fs::read_dir("/sys/block").expect("Linux").flatten();
        let disk = disks
            .map(|entry| entry.file_name().display().to_string())
            // Loop devices come and go.
            .filter(|name| !name.starts_with("loop"))
            .map(|name| format!("/dev/{name}"))
            .find(|path| Path::new(path).exists())
            .expect("a machine with a disk");
        let words = ["--device-read-bps", &format!("{disk}:1mb")];
        let container = docker.start(&Run::new(&spin()).extra(&words));
        let rate =
            cgroup_value(container.pid(), "blkio", "blkio.throttle.read_bps_device", "io.max");
        assert!(rate.contains(&MEGABYTE.to_string()), "{disk}: {rate}");
    }

    // Docker 26 omits the option on a host with cgroup version 1.
    tests_in!(docker_28, Docker::shared(DockerVersion::V28), a_disk_is_read_at_the_rate_given);
    tests_in!(docker_29, Docker::shared(DockerVersion::V29), a_disk_is_read_at_the_rate_given);
}
