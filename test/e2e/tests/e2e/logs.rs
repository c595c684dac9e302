//! `docker logs`, and Docker's log drivers.

use std::fs;
use std::path::Path;
use wherry_e2e::images::{cat, hello};
use wherry_e2e::on_dockers;
use wherry_testing::{Client, Container, DEADLINE, Daemon, Docker, Run, wait_until};

fn logs(docker: &Docker, id: &str, words: &[&str]) -> String {
    docker.docker(&[&["logs"], words, &[id]].concat()).success()
}

/// A container that has printed the numbers from 1 to this one, a line each, at different times.
fn counted(docker: &Docker, to: u32) -> Container<'_> {
    let mut container = docker.start(&Run::new(&cat()));
    for number in 1..=to {
        container.say(format!("{number}\n").as_bytes());
        container.wait_for_output(&format!("{number}\n"));
    }
    container
}

fn a_follower_has_the_past_and_the_future_to_the_end(docker: &Docker) {
    let mut container = counted(docker, 2);
    let follower = Client::start(docker.docker_command(&["logs", "--follow", container.id()]));
    follower.wait_for("1\n2\n");
    container.say(b"3\n");
    follower.wait_for("3\n");
    container.kill("TERM");
    assert_eq!(follower.end().success(), "1\n2\n3\n");
}

fn lines_are_chosen_by_number_and_time(docker: &Docker) {
    let mut container = counted(docker, 5);
    let id = container.id().to_owned();
    let stamped = logs(docker, &id, &["--timestamps"]);
    let stamps: Vec<&str> = stamped.lines().filter_map(|line| line.split(' ').next()).collect();
    let texts: Vec<&str> = stamped.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
    assert!(stamps.is_sorted() && stamps.iter().all(|stamp| stamp.ends_with('Z')), "{stamped}");
    assert_eq!(logs(docker, &id, &["--tail", "2"]), "4\n5\n");
    assert_eq!(logs(docker, &id, &["--since", stamps[2]]), "3\n4\n5\n");
    assert_eq!(logs(docker, &id, &["--until", stamps[1]]), "1\n2\n");
    let words = ["logs", "--follow", "--since", stamps[3], &id];
    let follower = Client::start(docker.docker_command(&words));
    follower.wait_for("4\n5\n");
    container.say(b"6\n");
    follower.wait_for("6\n");
    container.kill("TERM");
    assert_eq!(follower.end().success(), "4\n5\n6\n");
}

/// Sends many lines to a guest that echoes them, and waits until the log contains the last one.
fn say_much(docker: &Docker, container: &mut Container<'_>) {
    let lines: String = (10_000..20_000).map(|n| format!("line {n}\n")).collect();
    container.say(lines.as_bytes());
    wait_until("the last line", DEADLINE, || {
        logs(docker, container.id(), &["--tail", "1"]) == "line 19999\n"
    });
}

fn json_files_rotate(docker: &Docker) {
    let words =
        ["--log-driver", "json-file", "--log-opt", "max-size=50k", "--log-opt", "max-file=3"];
    let mut container = docker.start(&Run::new(&cat()).extra(&words));
    say_much(docker, &mut container);
    let path = docker.inspect(container.id(), "{{.LogPath}}").expect("it is there");
    let folder = Path::new(&path).parent().expect("a folder");
    let sizes: Vec<u64> = fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().expect("a file").len())
        .collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size < 60_000), "{sizes:?}");
    let tail = logs(docker, container.id(), &["--tail", "100"]);
    let expected: String = (19_900..20_000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(tail, expected);
}

fn local_logs_are_read(docker: &Docker) {
    let mut container = docker.start(&Run::new(&cat()).extra(&["--log-driver", "local"]));
    say_much(docker, &mut container);
    let expected: String = (10_000..20_000).map(|n| format!("line {n}\n")).collect();
    assert!(logs(docker, container.id(), &[]) == expected);
    let follower = Client::start(docker.docker_command(&["logs", "--follow", container.id()]));
    follower.wait_for("line 19999\n");
    container.kill("TERM");
    assert!(follower.end().success() == expected);
}

fn without_a_log_a_client_still_reads(docker: &Docker) {
    let run = Run::new(&cat()).extra(&["--log-driver", "none"]);
    let container = docker.start(&run);
    let refused = docker.docker(&["logs", container.id()]).failure();
    assert!(refused.contains("does not support reading"), "{refused}");
    let mut client = Client::start(docker.docker_command(&["attach", container.id()]));
    client.say(b"a line\n");
    client.wait_for("a line\n");
    let hello = Run::new(&hello()).extra(&["--log-driver", "none"]);
    assert_eq!(docker.run(&hello).success(), "hello\n");
}

/// Docker logs by line, and splits long lines.
fn a_long_line_without_an_end_is_whole(docker: &Docker) {
    let name = docker.containerd().new_id();
    let words = ["--interactive", "--name", &name];
    let mut client = Client::start(docker.run_command(&words, &Run::new(&cat())));
    let line = "0123456789".repeat(5000);
    client.say(line.as_bytes());
    client.close_input();
    assert!(client.end().success() == line);
    let logged = logs(docker, &name, &[]);
    assert!(logged == line, "{} of {} bytes", logged.len(), line.len());
    docker.docker(&["rm", &name]).success();
}

on_dockers!(
    a_follower_has_the_past_and_the_future_to_the_end,
    lines_are_chosen_by_number_and_time,
    json_files_rotate,
    local_logs_are_read,
    without_a_log_a_client_still_reads,
    a_long_line_without_an_end_is_whole,
);
