//! containerd may be killed and restarted while tasks run: every task is still there, and no output
//! is lost.

use wherry_e2e::images::{cat, spin};
use wherry_e2e::{on_own_containerds, on_own_dockers};
use wherry_testing::{Containerd, DEADLINE, Daemon, Docker, Leftovers, Run, wait_until};

fn a_task_survives_with_its_output(containerd: &Containerd) {
    let mut container = containerd.start(&Run::new(&cat()));
    let pid = container.pid();
    container.say(b"before\n");
    container.wait_for_output("before\n");
    containerd.kill9();
    container.say(b"between\n");
    container.wait_for_output("between\n");
    containerd.start_again();
    assert_eq!(container.pid(), pid, "it is still the same process");
    container.say(b"after\n");
    container.wait_for_output("after\n");
    assert_eq!(container.stdout(), b"before\nbetween\nafter\n");
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
    container.remove();
}

fn every_one_of_several_tasks_survives(containerd: &Containerd) {
    let containers: Vec<_> = (0..4).map(|_| containerd.start(&Run::new(&spin()))).collect();
    let pids: Vec<i32> = containers.iter().map(|container| container.pid()).collect();
    for _ in 0..2 {
        containerd.kill9();
        containerd.start_again();
        let now: Vec<i32> = containers.iter().map(|container| container.pid()).collect();
        assert_eq!(now, pids);
    }
    for container in containers {
        container.kill("KILL");
        assert_eq!(container.wait(), 137);
        container.remove();
    }
}

fn an_exit_that_nobody_saw_is_told_later(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let pid = container.pid();
    containerd.kill9();
    nix_kill(pid);
    wait_until("the guest's end", DEADLINE, || wherry_testing::Process::of(pid).is_none());
    containerd.start_again();
    assert_eq!(container.wait(), 137);
    container.remove();
}

fn what_was_output_while_nobody_read_is_there_after(containerd: &Containerd) {
    let leftovers = Leftovers::snapshot(containerd);
    let mut container = containerd.start(&Run::new(&cat()));
    let line: Vec<u8> = (0..200_000_u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
    containerd.kill9();
    // More than the pipes hold: it flows while the daemon is down.
    for part in line.chunks(4096) {
        container.say(part);
    }
    containerd.start_again();
    wait_until("all of the output", DEADLINE, || container.stdout().len() >= line.len());
    assert!(container.stdout() == line);
    container.remove();
    leftovers.assert_none_new();
}

/// Kills a guest behind containerd's back.
fn nix_kill(pid: i32) {
    let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {pid}");
}

on_own_containerds!(
    a_task_survives_with_its_output,
    every_one_of_several_tasks_survives,
    an_exit_that_nobody_saw_is_told_later,
    what_was_output_while_nobody_read_is_there_after,
);

mod docker {
    use super::*;

    fn a_container_survives_its_containerd(docker: &Docker) {
        let mut container = docker.start(&Run::new(&cat()));
        let pid = container.pid();
        container.say(b"before\n");
        container.wait_for_output("before\n");
        docker.containerd().kill9();
        docker.containerd().start_again();
        wait_until("Docker's connection", DEADLINE, || {
            docker.docker(&["top", container.id()]).code == 0
        });
        assert_eq!(container.pid(), pid);
        assert!(!container.ended());
        container.say(b"after\n");
        container.wait_for_output("after\n");
        container.kill("TERM");
        assert_eq!(container.wait(), 143);
    }

    on_own_dockers!(a_container_survives_its_containerd);
}
