//! When a shim dies, its guest ends, containerd publishes the exit, and nothing stays behind.

use std::process::Command;
use wherry_e2e::images::{hello, spin};
use wherry_e2e::on_own_daemons;
use wherry_testing::{DEADLINE, Daemon, Leftovers, Process, Run, busybox, wait_until};

fn send(signal: &str, pid: i32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {signal} {pid}");
}

/// Kills the shim of a running container, and asserts the consequences.
fn guest_goes_with_its_shim(daemon: &dyn Daemon, run: &Run) {
    // The lasting effects of the first container of a daemon (parents of cgroups, folders) do not
    // count as leftovers.
    daemon.run(&Run::new(&hello())).success();
    let leftovers = Leftovers::snapshot(daemon);
    let container = daemon.start(run);
    let guest = container.pid();
    let shims = container.shims();
    assert!(!shims.is_empty(), "no shim's command line names {}", container.id());
    for shim in &shims {
        send("-KILL", shim.pid);
    }
    wait_until("the guest's end", DEADLINE, || Process::of(guest).is_none());
    wait_until("the exit is reported", DEADLINE, || container.ended());
    container.remove();
    leftovers.assert_none_new();
    assert_eq!(daemon.run(&Run::new(&hello())).success(), "hello\n");
}

fn a_computing_guest_goes_with_its_shim(daemon: &dyn Daemon) {
    guest_goes_with_its_shim(daemon, &Run::new(&spin()));
}

fn a_native_process_goes_with_its_shim(daemon: &dyn Daemon) {
    guest_goes_with_its_shim(daemon, &Run::new(&busybox()).args(&["sleep", "100000"]));
}

fn a_normal_life_leaves_nothing_behind(daemon: &dyn Daemon) {
    daemon.run(&Run::new(&hello())).success();
    let leftovers = Leftovers::snapshot(daemon);
    for _ in 0..3 {
        assert_eq!(daemon.run(&Run::new(&hello())).success(), "hello\n");
    }
    // `start` records the sockets of the shims, so that they are checked too.
    daemon.start(&Run::new(&spin())).remove();
    let container = daemon.start(&Run::new(&spin()));
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
    container.remove();
    leftovers.assert_none_new();
}

on_own_daemons!(
    a_computing_guest_goes_with_its_shim,
    a_native_process_goes_with_its_shim,
    a_normal_life_leaves_nothing_behind,
);

mod without_threads {
    use std::fs;
    use std::path::{Path, PathBuf};
    use wherry_e2e::images::{hello, kit};
    use wherry_e2e::on_own_containerds;
    use wherry_testing::{Containerd, DEADLINE, Daemon, Leftovers, Run, shared, wait_until};

    const SENTENCE: &str = "cannot start a thread: Resource temporarily unavailable (os error 11)";

    /// A cgroup that limits the number of a shim's threads, until this is dropped; and the shim. A
    /// manager, which would stay, is killed then.
    struct Group(PathBuf, i32);

    impl Group {
        fn of(shim: i32, name: &str) -> Group {
            let root = Path::new("/sys/fs/cgroup");
            let pids = root.join("pids");
            let group = Group(if pids.exists() { pids } else { root.to_owned() }.join(name), shim);
            fs::create_dir(&group.0).expect("a cgroup can be made");
            group.write("cgroup.procs", &shim.to_string());
            group
        }

        fn write(&self, file: &str, value: &str) {
            let path = self.0.join(file);
            fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            // The test may have removed the cgroup.
            let _ = fs::write(self.0.join("pids.max"), "max");
            if shared() {
                super::send("-KILL", self.1);
            }
            if !std::thread::panicking() {
                wait_until("the shim's end", DEADLINE, || fs::remove_dir(&self.0).is_ok());
            }
        }
    }

    fn a_shim_without_threads_says_so_and_deletes_later(containerd: &Containerd) {
        containerd.run(&Run::new(&hello())).success();
        let leftovers = Leftovers::snapshot(containerd);
        let container = containerd.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
        let id = container.id().to_owned();
        let [shim] = &container.shims()[..] else { panic!("there is one shim") };
        let group = Group::of(shim.pid, &format!("without-threads-{}", shim.pid));
        let threads = PathBuf::from(format!("/proc/{}/task", shim.pid));
        wait_until("the end of idle threads", DEADLINE, || {
            fs::read_dir(&threads).expect("the shim lives").count() == 1
        });
        group.write("pids.max", "1");

        let refused = containerd.exec(&id, &["/app.wasm", "exit", "3"], b"").failure();
        assert!(refused.contains(SENTENCE), "{refused}");
        let refused = containerd.freeze(&id, true).failure();
        assert!(refused.contains(SENTENCE), "{refused}");
        container.kill("KILL");
        wait_until("the exit is reported", DEADLINE, || container.ended());
        for _ in 0..2 {
            let refused = containerd.ctr(&["task", "rm", &id]).failure();
            assert!(refused.contains(SENTENCE), "{refused}");
        }
        group.write("pids.max", "max");
        assert_eq!(container.wait(), 137);
        container.remove();
        leftovers.assert_none_new();
    }

    on_own_containerds!(a_shim_without_threads_says_so_and_deletes_later);
}
