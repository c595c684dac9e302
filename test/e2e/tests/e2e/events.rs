//! The events of a container, in order: `docker events` and `ctr events`.

use std::time::{SystemTime, UNIX_EPOCH};
use wherry_e2e::images::{glutton, kit};
use wherry_e2e::{on_containerds, on_dockers};
use wherry_testing::{Client, Containerd, DEADLINE, Daemon, Docker, Run, wait_until};

mod docker {
    use super::*;

    /// The output of `docker events` about the containers with a label, from now on.
    fn follow(docker: &Docker, label: &str) -> Client {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let format = "{{.Action}}{{with .Actor.Attributes.signal}} signal={{.}}{{end}}\
                      {{with .Actor.Attributes.exitCode}} exitCode={{.}}{{end}}";
        let (since, filter) = (now.to_string(), format!("label={label}"));
        let words = ["events", "--since", &since, "--filter", &filter, "--format", format];
        Client::start(docker.docker_command(&words))
    }

    fn a_life_is_told_in_order(docker: &Docker) {
        let label = docker.containerd().new_id();
        let events = follow(docker, &label);
        let run = Run::new(&kit(false)).args(&["sleep", "100000"]).extra(&["--label", &label]);
        let container = docker.start(&run);
        let id = container.id().to_owned();
        assert_eq!(docker.exec(&id, &["/app.wasm", "exit", "3"], b"").code, 3);
        events.wait_for("exec_die");
        docker.freeze(&id, true).success();
        docker.freeze(&id, false).success();
        container.kill("TERM");
        container.wait();
        docker.docker(&["start", &id]).success();
        container.kill("KILL");
        container.wait();
        container.remove();
        events.wait_for("destroy");
        let seen = events.shown();
        let expected = [
            "create",
            "start",
            "exec_create: /app.wasm exit 3",
            "exec_start: /app.wasm exit 3",
            "exec_die exitCode=3",
            "pause",
            "unpause",
            "kill signal=15",
            "die exitCode=143",
            "start",
            "kill signal=9",
            "die exitCode=137",
            "destroy",
        ];
        assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    }

    fn an_oom_kill_is_told_before_the_end(docker: &Docker) {
        let label = docker.containerd().new_id();
        let events = follow(docker, &label);
        let run = Run::new(&glutton()).memory(64 << 20).extra(&["--label", &label]);
        let container = docker.start(&run);
        assert_eq!(container.wait(), 137);
        container.remove();
        events.wait_for("destroy");
        let expected = "create\nstart\noom\ndie exitCode=137\ndestroy\n";
        assert_eq!(events.shown(), expected);
    }

    on_dockers!(a_life_is_told_in_order, an_oom_kill_is_told_before_the_end);
}

mod containerd {
    use super::*;

    fn a_life_is_told_in_order(containerd: &Containerd) {
        let events = containerd.events();
        let container = containerd.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
        let id = container.id().to_owned();
        let topics = || {
            let mut topics = events.topics(&id);
            topics.retain(|topic| topic.starts_with("/tasks/"));
            topics
        };
        let published = |topic: &str, count: usize| {
            wait_until(&format!("{topic} is published"), DEADLINE, || {
                topics().iter().filter(|seen| *seen == topic).count() == count
            });
        };
        assert_eq!(containerd.exec(&id, &["/app.wasm", "exit", "3"], b"").code, 3);
        published("/tasks/exit", 1);
        containerd.freeze(&id, true).success();
        containerd.freeze(&id, false).success();
        container.kill("TERM");
        assert_eq!(container.wait(), 143);
        published("/tasks/delete", 1);
        let expected = "create start exec-added exec-started exit paused resumed exit delete";
        let expected: Vec<String> =
            expected.split(' ').map(|topic| format!("/tasks/{topic}")).collect();
        assert_eq!(topics(), expected);
        let text = events.text();
        let statuses: Vec<bool> = text
            .lines()
            .filter(|line| line.contains("/tasks/exit") && line.contains(&format!("\"{id}\"")))
            .zip([3, 143])
            .map(|(line, status)| line.contains(&format!("\"exit_status\":{status},")))
            .collect();
        assert_eq!(statuses, [true, true], "{text}");
    }

    on_containerds!(a_life_is_told_in_order);
}
