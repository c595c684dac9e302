//! Docker's restart policies: which containers are restarted, and when.

use std::process::Command;
use wherry_e2e::images::{hello, kit, spin};
use wherry_e2e::{on_docker_versions, on_dockers};
use wherry_testing::{DEADLINE, Daemon, Docker, DockerVersion, Run, wait_for, wait_until};

fn always_is_after_every_end_but_a_stop(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()).extra(&["--restart", "always"]));
    let pid = container.pid();
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let next = wait_for("another process", DEADLINE, || {
        docker.pid(container.id()).filter(|now| *now != pid)
    });
    assert_eq!(docker.inspect(container.id(), "{{.RestartCount}}").as_deref(), Some("1"));
    container.wait_for_output("ready\nready\n");
    assert_eq!(container.pid(), next);
    docker.docker(&["stop", "--time", "60", container.id()]).success();
    assert_eq!(container.wait(), 143);
    assert_eq!(docker.inspect(container.id(), "{{.RestartCount}}").as_deref(), Some("1"));
}

fn always_is_after_a_good_end_too(docker: &Docker) {
    let container = docker.start(&Run::new(&hello()).extra(&["--restart", "always"]));
    container.wait_for_output("hello\nhello\nhello\n");
    docker.docker(&["rm", "--force", container.id()]).success();
}

fn a_policy_can_be_changed(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()).extra(&["--restart", "always"]));
    docker.docker(&["update", "--restart", "no", container.id()]).success();
    let pid = container.pid().to_string();
    let killed = Command::new("kill").args(["-KILL", &pid]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert_eq!(container.wait(), 137);
    assert_eq!(docker.inspect(container.id(), "{{.RestartCount}}").as_deref(), Some("0"));
}

on_dockers!(
    always_is_after_every_end_but_a_stop,
    always_is_after_a_good_end_too,
    a_policy_can_be_changed,
);

/// A restart of dockerd stops all containers, and starts those that were not stopped before, and
/// `always`.
fn a_restarted_dockerd_starts_what_it_should(version: DockerVersion) {
    let docker = Docker::start(version);
    let run = Run::new(&kit(false)).args(&["sleep", "100000"]);
    let start = |policy: &str| docker.start(&run.clone().extra(&["--restart", policy]));
    let (always, unless_stopped, no) = (start("always"), start("unless-stopped"), start("no"));
    let (stopped_always, stopped) = (start("always"), start("unless-stopped"));
    for container in [&always, &unless_stopped, &stopped_always, &no, &stopped] {
        container.wait_for_output("ready\n");
    }
    for container in [&stopped_always, &stopped] {
        docker.docker(&["stop", "--time", "60", container.id()]).success();
    }
    docker.stop();
    docker.start_again();
    for container in [&always, &unless_stopped, &stopped_always] {
        wait_until("it runs again", DEADLINE, || container.stdout() == b"ready\nready\n");
        assert!(!container.ended());
    }
    for container in [no, stopped] {
        assert!(container.ended());
        assert_eq!(container.stdout(), b"ready\n");
    }
}

mod own {
    use super::*;

    on_docker_versions!(version => version; a_restarted_dockerd_starts_what_it_should);
}
