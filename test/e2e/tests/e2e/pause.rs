//! A container is paused and resumed.

use std::fs;
use wherry_e2e::images::{cat, spin};
use wherry_e2e::{on_all_daemons, on_containerds};
use wherry_testing::{Containerd, DEADLINE, Daemon, Leftovers, Run, wait_until};

/// The processor time of a process so far, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("its form").1.split(' ').collect();
    [11, 12].iter().map(|index| fields[*index].parse::<u64>().expect("a number")).sum()
}

fn a_paused_guest_computes_nothing_until_it_goes_on(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()));
    let pid = container.pid();
    wait_until("it computes", DEADLINE, || ticks(pid) > 2);
    daemon.freeze(container.id(), true).success();
    let before = ticks(pid);
    // Another container runs to its end meanwhile.
    daemon.run(&Run::new(&wherry_e2e::images::hello())).success();
    assert_eq!(ticks(pid), before);
    daemon.freeze(container.id(), false).success();
    wait_until("it computes again", DEADLINE, || ticks(pid) > before);
}

fn its_input_waits(daemon: &dyn Daemon) {
    let mut container = daemon.start(&Run::new(&cat()));
    // Docker cannot attach to a paused container: the client attaches before.
    container.say(b"before\n");
    container.wait_for_output("before\n");
    daemon.freeze(container.id(), true).success();
    container.say(b"said to a frozen guest\n");
    assert_eq!(container.stdout(), b"before\n");
    daemon.freeze(container.id(), false).success();
    container.wait_for_output("said to a frozen guest\n");
}

fn a_paused_container_can_be_killed(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()));
    daemon.freeze(container.id(), true).success();
    container.kill("KILL");
    assert_eq!(container.wait(), 137);
}

fn a_paused_container_can_be_removed(daemon: &dyn Daemon) {
    let leftovers = Leftovers::snapshot(daemon);
    let container = daemon.start(&Run::new(&spin()));
    daemon.freeze(container.id(), true).success();
    container.remove();
    leftovers.assert_none_new();
}

fn twice_is_refused(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()));
    daemon.freeze(container.id(), true).success();
    daemon.freeze(container.id(), true).failure();
    daemon.freeze(container.id(), false).success();
    daemon.freeze(container.id(), false).failure();
}

on_all_daemons!(
    a_paused_guest_computes_nothing_until_it_goes_on,
    its_input_waits,
    a_paused_container_can_be_killed,
    twice_is_refused,
);

mod containerd {
    use super::*;

    fn it_is_told_in_events(containerd: &Containerd) {
        let events = containerd.events();
        let container = containerd.start(&Run::new(&spin()));
        containerd.freeze(container.id(), true).success();
        containerd.freeze(container.id(), false).success();
        wait_until("the events", DEADLINE, || {
            events
                .topics(container.id())
                .ends_with(&["/tasks/paused".into(), "/tasks/resumed".into()])
        });
    }

    on_containerds!(it_is_told_in_events);
}

mod alone {
    use super::*;

    fn removed(daemon: &dyn Daemon) {
        a_paused_container_can_be_removed(daemon);
    }

    wherry_e2e::on_own_daemons!(removed);
}
