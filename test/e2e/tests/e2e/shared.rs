//! The shared mode: one manager serves all containers of a containerd's namespace, and its end
//! harms as little as can be.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use tempfile::TempDir;
use wherry_e2e::direct::call;
use wherry_e2e::images::{hello, spin};
use wherry_e2e::managed::{Managed, kill, manager};
use wherry_e2e::{on_own_containerds, tests_in};
use wherry_testing::{
    Containerd, DEADLINE, Daemon, Leftovers, Process, Run, Trace, managers, wait_until,
};

fn twenty_containers_at_a_time_have_one_manager_that_stays(containerd: &Containerd) {
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    let first = manager(containerd);
    let leftovers = Leftovers::snapshot(containerd);
    thread::scope(|scope| {
        let runs: Vec<_> =
            (0..20).map(|_| scope.spawn(|| containerd.run(&Run::new(&hello())))).collect();
        for run in runs {
            assert_eq!(run.join().expect("no panic").success(), "hello\n");
        }
    });
    assert_eq!(manager(containerd).pid, first.pid);
    leftovers.assert_none_new();
}

/// containerd waits for the `delete` command after each Delete.
fn the_delete_command_does_not_call_a_manager_that_has_deleted_the_container(
    containerd: &Containerd,
) {
    containerd.run(&Run::new(&hello())).success();
    let options = ["--successful-only", "--signal=none", "--string-limit=200", "--trace=connect"];
    let trace = Trace::attach(containerd, &[containerd.daemon_pid()], &options);
    containerd.run(&Run::new(&hello())).success();
    let lines = trace.lines();
    let calls = lines.lines().filter(|line| line.contains("/run/containerd/s/")).count();
    assert_eq!(calls, 2, "`start` and containerd connect: {lines}");
    assert!(!lines.contains("wherry-manager"), "{lines}");
}

fn a_killed_manager_leaves_nothing_and_has_a_successor(containerd: &Containerd) {
    containerd.run(&Run::new(&hello())).success();
    let leftovers = Leftovers::snapshot(containerd);
    let containers: Vec<_> = (0..5).map(|_| containerd.start(&Run::new(&spin()))).collect();
    let guests: Vec<i32> = containers.iter().map(|container| container.pid()).collect();
    let first = manager(containerd);
    kill(first.pid);
    // While containerd still cleans up.
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    let second = manager(containerd);
    assert_ne!(second.pid, first.pid);
    for guest in guests {
        wait_until("a guest's end", DEADLINE, || Process::of(guest).is_none());
    }
    for container in containers {
        wait_until("the exit is reported", DEADLINE, || container.ended());
        container.remove();
    }
    assert_eq!(manager(containerd).pid, second.pid);
    leftovers.assert_none_new();
}

/// containerd closes the pipe of the first container, in whose bundle the manager was started.
fn lines_about_a_later_container_are_in_containerds_log(containerd: &Containerd) {
    containerd.run(&Run::new(&hello())).success();
    let file = containerd.root().join("options.toml");
    for key in ["OptionOfTheSecond", "OptionOfTheThird"] {
        std::fs::write(&file, format!("{key} = true\n")).expect("the folder is writable");
        let path = file.display().to_string();
        containerd.run(&Run::new(&hello()).extra(&["--runtime-config-path", &path])).success();
        let line = format!("ignored the unknown runtime option {key}");
        wait_until(&line, DEADLINE, || {
            std::fs::read_to_string(containerd.log_path()).is_ok_and(|text| text.contains(&line))
        });
    }
}

on_own_containerds!(
    twenty_containers_at_a_time_have_one_manager_that_stays,
    the_delete_command_does_not_call_a_manager_that_has_deleted_the_container,
    a_killed_manager_leaves_nothing_and_has_a_successor,
    lines_about_a_later_container_are_in_containerds_log,
);

/// The least idle time is ten seconds.
fn an_idle_manager_ends_and_has_a_successor(managed: &Managed) {
    let containerd = &managed.containerd;
    let mut pids = BTreeSet::new();
    let mut one_life = || {
        let container = containerd.start(&Run::new(&spin()));
        assert!(pids.insert(manager(containerd).pid), "it is another");
        container.remove();
        wait_until("the manager's end", DEADLINE, || managers(&containerd.address()).is_empty());
    };
    one_life();
    let leftovers = Leftovers::snapshot(containerd);
    one_life();
    leftovers.assert_none_new();
}

mod idle {
    use super::an_idle_manager_ends_and_has_a_successor;

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "idle = 10");
        an_idle_manager_ends_and_has_a_successor
    );
}

/// Calls `start` for this many containers at once; returns the addresses that they print.
fn start_at_once(count: usize, containerd: &Path, folder: &Path) -> BTreeSet<String> {
    let address = containerd.to_str().expect("it is text");
    thread::scope(|scope| {
        let starts: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || {
                    let bundle = folder.join(number.to_string());
                    std::fs::create_dir_all(&bundle).expect("it is writable");
                    let id = number.to_string();
                    let flags = ["-namespace", "race", "-address", address, "-id", &id, "start"];
                    let output = call(&flags, b"", &bundle);
                    assert!(output.status.success(), "{output:?}");
                    String::from_utf8(output.stdout).expect("an address")
                })
            })
            .collect();
        starts.into_iter().map(|start| start.join().expect("no panic")).collect()
    })
}

fn of_fifty_starts_one_makes_the_manager_also_after_it_was_killed(_: ()) {
    let folder = TempDir::new().expect("a temporary folder");
    let address = folder.path().join("none.sock");
    let mut pids = BTreeSet::new();
    for round in 1..=3 {
        let said = start_at_once(50, &address, folder.path());
        assert_eq!(said.len(), 1, "{said:?}");
        // A child of a manager has its command line between fork and exec.
        let one = format!("one manager, in round {round}");
        let mut found = Vec::new();
        wait_until(&one, DEADLINE, || {
            found = managers(&address);
            found.len() == 1
        });
        assert!(pids.insert(found[0].pid), "it is another after each kill");
        kill(found[0].pid);
    }
}

tests_in!(directly, (), of_fifty_starts_one_makes_the_manager_also_after_it_was_killed);
