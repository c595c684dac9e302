//! The shim may die: the guest goes with it, containerd reports the exit, and nothing stays behind.

use std::process::Command;
use wherry_e2e::images::{hello, spin};
use wherry_e2e::on_own_daemons;
use wherry_testing::{DEADLINE, Daemon, Leftovers, Process, Run, busybox, wait_until};

fn send(signal: &str, pid: i32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {signal} {pid}");
}

/// Kills the shim of a running container, and asserts what must follow.
fn guest_goes_with_its_shim(daemon: &dyn Daemon, run: &Run) {
    // What the first container of a daemon leaves (parents of cgroups, folders) is no leftover.
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
    // Through `start` the sockets of the shims are known, and looked for as well.
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
