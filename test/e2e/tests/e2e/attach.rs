//! Clients detach from a container and attach again, and several read one; the container is not
//! affected.

use wherry_e2e::images::{fields, kit};
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers};
use wherry_testing::{
    Client, Containerd, DEADLINE, Daemon, Docker, Image, Run, TERMINAL_SIZE, Typed, busybox,
    wait_until,
};

/// Docker's keys to detach: ctrl-p, ctrl-q.
const LEAVE: &[u8] = b"\x10\x11";
const NOTHING: Typed<'_> = Typed { after: "", keys: b"" };

/// A guest that reads once, writes the input to both outputs, and exits with 5.
fn answer() -> Image {
    fields(
        "answer",
        r#"(func (export "_start")
             (i32.store (i32.const 0) (i32.const 65536))
             (i32.store (i32.const 4) (i32.const 65536))
             (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
             (i32.store (i32.const 16) (i32.load (i32.const 8)))
             (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 16)))
             (call $write (i32.const 2) (i32.const 65536) (i32.load (i32.const 16)))
             (call $proc_exit (i32.const 5)))"#,
    )
}

/// The last whole number on the screen or in the log of a ticking guest.
fn last_tick(text: &str) -> u32 {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().rev().find_map(|line| line.trim().parse().ok()).unwrap_or(0)
}

fn a_terminal_has_the_clients_size(daemon: &dyn Daemon) {
    let wait = format!("until [ \"$(stty size)\" = '{TERMINAL_SIZE}' ]; do sleep 0.02; done");
    let script = format!("{wait}; echo as large");
    let run = Run::new(&busybox()).args(&["sh", "-c", &script]);
    let ended = daemon.run_in_terminal(&run, &NOTHING);
    assert!(ended.code == 0 && ended.out().contains("as large"), "{ended}");
    let container = daemon.start(&Run::new(&busybox()).args(&["sleep", "100000"]));
    let ended = daemon.exec_in_terminal(container.id(), &["/bin/sh", "-c", &script], &NOTHING);
    assert!(ended.code == 0 && ended.out().contains("as large"), "{ended}");
}

on_all_daemons!(a_terminal_has_the_clients_size);

mod docker {
    use super::*;

    fn attach(docker: &Docker, id: &str, words: &[&str]) -> Client {
        Client::start(docker.docker_command(&[&["attach"], words, &[id]].concat()))
    }

    fn attach_in_terminal(docker: &Docker, id: &str) -> Client {
        Client::in_terminal(&docker.docker_command(&["attach", id]))
    }

    fn a_terminal_is_left_and_come_back_to(docker: &Docker) {
        let run = Run::new(&kit(false)).args(&["cat"]).extra(&["--tty"]);
        let container = docker.start(&run);
        for word in ["one", "two"] {
            let mut client = attach_in_terminal(docker, container.id());
            client.say(format!("{word}\n").as_bytes());
            // Once as the terminal's echo, and once from the guest.
            client.wait_for_times(word, 2);
            client.say(LEAVE);
            assert!(client.end().out().contains("read escape sequence"));
            assert!(!container.ended());
        }
        let mut client = attach_in_terminal(docker, container.id());
        client.say(b"three\n");
        client.wait_for_times("three", 2);
        // The end-of-file character of the terminal, which only the guest interprets.
        client.say(b"\x04");
        assert_eq!(client.end().code, 0);
        assert_eq!(container.wait(), 0);
        let lines = "one two three".split(' ').map(|word| format!("{word}\r\n").repeat(2));
        assert_eq!(String::from_utf8_lossy(&container.stdout()), lines.collect::<String>());
    }

    fn a_screen_goes_on_while_nobody_watches(docker: &Docker) {
        let name = docker.containerd().new_id();
        let run = Run::new(&kit(true)).args(&["tick", "20"]);
        let words = ["--interactive", "--tty", "--name", &name];
        let mut client = Client::in_terminal(&docker.run_command(&words, &run));
        client.wait_for("3\r\n");
        client.say(LEAVE);
        let left = client.end();
        assert_eq!(left.code, 0, "{left}");
        let (seen, log) = (last_tick(&left.out()), || docker.docker(&["logs", &name]).out());
        wait_until("the next ticks", DEADLINE, || last_tick(&log()) > seen + 3);
        let logged = last_tick(&log());
        let mut client = attach_in_terminal(docker, &name);
        wait_until("it is shown again", DEADLINE, || last_tick(&client.shown()) > logged);
        client.say(b"\x03");
        assert_eq!(client.end().code, 130);
        docker.docker(&["rm", "--force", &name]).success();
    }

    fn an_exec_is_left_too(docker: &Docker) {
        let container = docker.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
        let words = ["exec", "--interactive", "--tty", container.id(), "/app.wasm", "tick", "20"];
        let mut client = Client::in_terminal(&docker.docker_command(&words));
        client.wait_for("3\r\n");
        client.say(LEAVE);
        client.end();
        let top = docker.docker(&["top", container.id()]).success();
        assert!(top.contains("/app.wasm tick 20"), "{top}");
        container.kill("KILL");
        assert_eq!(container.wait(), 137);
    }

    /// The first instruction already sees the size.
    fn a_terminal_has_its_size_from_the_start(docker: &Docker) {
        let run = Run::new(&busybox()).args(&["stty", "size"]);
        let ended = docker.run_in_terminal(&run, &NOTHING);
        assert_eq!(ended.success().trim(), TERMINAL_SIZE);
        let container = docker.start(&Run::new(&busybox()).args(&["sleep", "100000"]));
        let ended = docker.exec_in_terminal(container.id(), &["/bin/stty", "size"], &NOTHING);
        assert_eq!(ended.success().trim(), TERMINAL_SIZE);
    }

    fn another_size_is_told_to_the_program(docker: &Docker) {
        let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done";
        let run = Run::new(&busybox()).args(&["sh", "-c", script]).extra(&["--tty"]);
        let container = docker.start(&run);
        container.wait_for_output("ready");
        // No client was attached before: the first one sets the size.
        let client = attach_in_terminal(docker, container.id());
        client.wait_for(TERMINAL_SIZE);
        client.kill();
        assert!(!container.ended());
    }

    /// A user other than root may reopen it, as programs do through /dev/stdout.
    fn a_terminal_is_the_users(docker: &Docker) {
        let script = "echo by its name > /dev/stdout; stat -c %u $(readlink /proc/self/fd/0)";
        let run = Run::new(&busybox().link("/bin/readlink", "busybox")).extra(&["--user", "1234"]);
        let ended = docker.run_in_terminal(&run.clone().args(&["sh", "-c", script]), &NOTHING);
        assert_eq!(ended.success().replace('\r', ""), "by its name\n1234\n");
        let container = docker.start(&run.args(&["sleep", "100000"]));
        let ended = docker.exec_in_terminal(container.id(), &["/bin/sh", "-c", script], &NOTHING);
        assert_eq!(ended.success().replace('\r', ""), "by its name\n1234\n");
    }

    fn without_a_terminal_input_outputs_and_exit_code_are_attached(docker: &Docker) {
        let container = docker.start(&Run::new(&answer()));
        let mut client = attach(docker, container.id(), &[]);
        client.say(b"a line\n");
        let ended = client.end();
        assert_eq!((ended.out().as_str(), ended.err().as_str()), ("a line\n", "a line\n"));
        assert_eq!(ended.code, 5);
    }

    fn a_signal_to_the_client_reaches_the_guest(docker: &Docker) {
        let container = docker.start(&Run::new(&kit(false)).args(&["tick", "20"]));
        let client = attach(docker, container.id(), &[]);
        client.wait_for("\n");
        client.terminate();
        assert_eq!(client.end().code, 143);
        assert_eq!(container.wait(), 143);
    }

    fn the_end_of_a_clients_input_is_not_the_containers(docker: &Docker) {
        let container = docker.start(&Run::new(&kit(false)).args(&["cat"]));
        for word in ["one\n", "two\n"] {
            let mut client = attach(docker, container.id(), &[]);
            client.say(word.as_bytes());
            client.wait_for(word);
            client.close_input();
            client.kill();
        }
        assert_eq!(container.stdout(), b"one\ntwo\n");
        assert!(!container.ended());
    }

    fn two_readers_have_everything_and_one_may_go(docker: &Docker) {
        let container = docker.start(&Run::new(&kit(false)).args(&["cat"]));
        let mut first = attach(docker, container.id(), &[]);
        let second = attach(docker, container.id(), &["--no-stdin"]);
        wait_until("both are there", DEADLINE, || {
            first.say(b".\n");
            first.shown().contains('.') && second.shown().contains('.')
        });
        let mut send = |from: u32| {
            let lines: String = (from..from + 50_000).map(|n| format!("line {n}\n")).collect();
            first.say(lines.as_bytes());
            lines
        };
        let both = send(100_000);
        wait_until("the second has it all", DEADLINE, || second.shown().contains(&both));
        second.kill();
        // More than all pipes on the way hold.
        let one = send(200_000);
        let all = both + &one;
        wait_until("the first has it all", DEADLINE, || first.shown().contains(&all));
        assert!(!container.ended());
    }

    on_dockers!(
        a_terminal_is_left_and_come_back_to,
        a_screen_goes_on_while_nobody_watches,
        an_exec_is_left_too,
        a_terminal_has_its_size_from_the_start,
        another_size_is_told_to_the_program,
        a_terminal_is_the_users,
        without_a_terminal_input_outputs_and_exit_code_are_attached,
        a_signal_to_the_client_reaches_the_guest,
        the_end_of_a_clients_input_is_not_the_containers,
        two_readers_have_everything_and_one_may_go,
    );
}

mod containerd {
    use super::*;

    /// The arguments of `ctr run` for the kit.
    fn run(containerd: &Containerd, words: &[&str], id: &str, args: &[&str]) -> Vec<String> {
        let image = kit(false).pack();
        containerd.load(&image);
        let runtime = wherry_testing::runtime();
        let image = [image.reference.as_str(), id, "/app.wasm"];
        let all = [&["run", "--runtime", &runtime], words, &image, args].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn command(containerd: &Containerd, words: &[String]) -> std::process::Command {
        containerd.ctr_command(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn remove(containerd: &Containerd, id: &str) {
        containerd.ctr(&["task", "rm", "--force", id]);
        containerd.ctr(&["containers", "rm", id]).success();
    }

    fn a_terminal_is_come_back_to(containerd: &Containerd) {
        let id = containerd.new_id();
        let words = run(containerd, &["--tty", "--detach"], &id, &["cat"]);
        let started = Client::in_terminal(&command(containerd, &words)).end();
        assert_eq!(started.code, 0, "{started}");
        let attach =
            || Client::in_terminal(&containerd.ctr_command(&["task", "attach", id.as_str()]));
        for word in ["one", "two"] {
            let mut client = attach();
            client.say(format!("{word}\n").as_bytes());
            client.wait_for_times(word, 2);
            // The terminal's window is closed.
            client.kill();
        }
        let mut client = attach();
        client.say(b"three\n");
        client.wait_for_times("three", 2);
        client.say(b"\x04");
        assert_eq!(client.end().code, 0);
        remove(containerd, &id);
    }

    fn a_client_that_goes_away_takes_nothing_along(containerd: &Containerd) {
        let id = containerd.new_id();
        let words = run(containerd, &[], &id, &["tick", "20"]);
        let client = Client::start(command(containerd, &words));
        client.wait_for("3\n");
        client.kill();
        let client = Client::start(containerd.ctr_command(&["task", "attach", &id]));
        wait_until("the next ticks", DEADLINE, || last_tick(&client.shown()) > 5);
        containerd.kill(&id, "KILL").success();
        assert_eq!(client.end().code, 137);
        remove(containerd, &id);
    }

    on_containerds!(a_terminal_is_come_back_to, a_client_that_goes_away_takes_nothing_along);
}
