//! Daemons that hand over to another version of their executables while containers run: `upgrade`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use wherry_e2e::images::cat;
use wherry_testing::{
    Client, Container, Containerd, ContainerdVersion, DEADLINE, Daemon, Leftovers, Process, Run,
    bin_dir, shared, shim_program, wait_until,
};

use crate::upgrade::{Installed, install};

/// The containers of a manager; of daemons of their own there are fewer.
fn count() -> usize {
    if shared() { 50 } else { 6 }
}

/// Calls the `upgrade` command for the daemons of this containerd.
fn upgrade(program: &Path, containerd: &Containerd) -> Output {
    let address = containerd.address().display().to_string();
    let mut command = Command::new(program);
    command.args(["upgrade", "-address", &address, "-namespace", containerd.namespace()]);
    command.output().expect("the shim runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The daemons that serve these containers, by their pids.
fn daemons(containers: &[Container<'_>]) -> BTreeMap<i32, Process> {
    let all = containers.iter().flat_map(Container::shims);
    all.map(|process| (process.pid, process)).collect()
}

/// Whether a process executes the file that is at this path now.
fn runs(pid: i32, path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let running = identity(Path::new(&format!("/proc/{pid}/exe")));
    running.is_some() && running == identity(path)
}

/// A process that was added to a container and copies its input to its output.
fn session(containerd: &Containerd, id: &str, terminal: bool) -> Client {
    let exec_id = format!("e-{id}");
    let flags: &[&str] = if terminal { &["--tty"] } else { &[] };
    let words = ["--exec-id", &*exec_id, id, "/app.wasm"];
    let command = containerd.ctr_command(&[&["task", "exec"], flags, &words].concat());
    let mut client = if terminal { Client::in_terminal(&command) } else { Client::start(command) };
    client.say(b"one\n");
    // A terminal shows the typed line too.
    client.wait_for_times("one", if terminal { 2 } else { 1 });
    client
}

/// Calls containerd about all containers until `ended`. Every call must succeed. Returns their
/// number.
fn call(containerd: &Containerd, ids: &[String], ended: &AtomicBool, calls: &AtomicUsize) {
    for id in ids.iter().cycle() {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        containerd.ctr(&["task", "ls"]).success();
        containerd.ctr(&["task", "ps", id]).success();
        containerd.ctr(&["task", "metrics", id]).success();
        let said = containerd.exec(id, &["/app.wasm"], b"called\n").success();
        assert_eq!(said, "called\n");
        calls.fetch_add(1, Ordering::SeqCst);
    }
}

fn no_client_notices_that_another_version_continues(version: ContainerdVersion) {
    let installed = Installed::new();
    let containerd = &installed.containerd(version);
    containerd.run(&Run::new(&cat()).stdin("x")).success();
    let leftovers = Leftovers::snapshot(containerd);
    let events = containerd.events();
    let start = || containerd.start(&Run::new(&cat()));
    let mut containers: Vec<Container<'_>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..count().div_ceil(4)).map(|_| start()).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let guests: Vec<i32> = containers.iter().map(Container::pid).collect();
    for container in &mut containers {
        container.say(b"before\n");
        container.wait_for_output("before\n");
    }
    let halves = containers.iter().step_by(2).enumerate();
    let mut sessions: Vec<(bool, Client)> = halves
        .map(|(n, container)| (n % 3 == 2, session(containerd, container.id(), n % 3 == 2)))
        .collect();
    let before = daemons(&containers);
    assert_eq!(before.len(), if shared() { 1 } else { containers.len() }, "{before:#?}");

    let (ended, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ids: Vec<String> = containers.iter().map(|container| container.id().to_owned()).collect();
    thread::scope(|scope| {
        for part in ids.chunks(ids.len().div_ceil(2)) {
            scope.spawn(|| call(containerd, part, &ended, &calls));
        }
        // Also if an assertion fails: the threads end with the scope.
        let upgrades = scope.spawn(|| {
            for _ in 0..5 {
                let so_far = calls.load(Ordering::SeqCst);
                wait_until("calls", DEADLINE, || calls.load(Ordering::SeqCst) >= so_far + 2);
                installed.again();
                let output = upgrade(&installed.shim(), containerd);
                assert!(
                    output.status.success(),
                    "{}{}",
                    text(&output.stdout),
                    text(&output.stderr)
                );
                for pid in before.keys() {
                    let line = format!(
                        "process {pid}, namespace {}: upgraded from version ",
                        containerd.namespace()
                    );
                    assert!(text(&output.stdout).contains(&line), "{}", text(&output.stdout));
                    assert!(runs(*pid, &installed.shim()), "the daemon runs the installed file");
                }
            }
            let so_far = calls.load(Ordering::SeqCst);
            wait_until("calls", DEADLINE, || calls.load(Ordering::SeqCst) >= so_far + 2);
        });
        let upgraded = upgrades.join();
        ended.store(true, Ordering::SeqCst);
        upgraded.expect("each upgrade succeeds");
    });

    let after = daemons(&containers);
    assert!(after.keys().eq(before.keys()), "{before:#?} {after:#?}");
    for (pid, process) in &after {
        assert_eq!(process.command, before[pid].command, "ps shows the same");
    }
    assert!(containers.iter().map(Container::pid).eq(guests), "all are the same processes");
    for container in &mut containers {
        container.say(b"after\n");
        container.wait_for_output("after\n");
        assert_eq!(container.stdout(), b"before\nafter\n");
    }
    for (terminal, session) in &mut sessions {
        session.say(b"two\n");
        session.wait_for_times("two", if *terminal { 2 } else { 1 });
    }
    for (terminal, mut session) in sessions {
        if terminal {
            // The end of the input, as a user types it.
            session.say(b"\x04");
            assert_eq!(session.end().code, 0);
        } else {
            session.close_input();
            let outcome = session.end();
            assert_eq!((outcome.code, outcome.out().as_str()), (0, "one\ntwo\n"));
        }
    }
    for container in containers {
        container.kill("TERM");
        assert_eq!(container.wait(), 143);
        container.remove();
    }
    for (n, id) in ids.iter().enumerate() {
        let count =
            |topics: &[String], topic: &str| topics.iter().filter(|found| *found == topic).count();
        wait_until("the last event", DEADLINE, || count(&events.topics(id), "/tasks/delete") > 0);
        let topics = events.topics(id);
        for once in ["/tasks/create", "/tasks/start", "/tasks/delete"] {
            assert_eq!(count(&topics, once), 1, "{once} of {id}: {topics:?}");
        }
        let session = events.topics(&format!("e-{id}"));
        let expected: &[&str] = match n % 2 {
            0 => &["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"],
            _ => &[],
        };
        assert_eq!(session, expected, "of the session in {id}");
    }
    if !shared() {
        leftovers.assert_none_new();
    }
}

fn a_version_that_refuses_leaves_the_old_one_running(version: ContainerdVersion) {
    let installed = Installed::new();
    let containerd = &installed.containerd(version);
    let mut container = containerd.start(&Run::new(&cat()));
    let (pid, daemon) = (container.pid(), container.shims().remove(0));
    let own = bin_dir().join(shim_program());
    let refused = |installed_file: &dyn Fn(&Path)| {
        installed_file(&installed.shim());
        let output = upgrade(&own, containerd);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&output.stdout)
    };
    let script = installed.shim().with_extension("sh");
    fs::write(&script, "#!/bin/sh\necho a newer form >&2; exit 1\n").expect("it is writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let said = refused(&|path| install(&script, path));
    let expected = format!(
        "process {}: not upgraded: {} does not take over: a newer form\n",
        daemon.pid,
        installed.shim().display()
    );
    assert_eq!(said, expected);
    let said = refused(&|path| fs::write(path, "no program").expect("it is writable"));
    assert!(said.contains("it cannot be executed: "), "{said}");
    let said = refused(&|path| fs::remove_file(path).expect("it exists"));
    assert!(said.contains("No such file or directory"), "{said}");

    assert_eq!(container.pid(), pid);
    container.say(b"still here\n");
    container.wait_for_output("still here\n");
    assert_eq!(containerd.exec(container.id(), &["/app.wasm"], b"x").success(), "x");
    assert_eq!(Process::of(daemon.pid).expect("it runs").command, daemon.command);

    // What was in the way is gone.
    installed.again();
    let output = upgrade(&own, containerd);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(runs(daemon.pid, &installed.shim()));
    let output = upgrade(&own, containerd);
    assert!(text(&output.stdout).contains("runs the installed version"), "{output:?}");
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

fn a_signal_upgrades_too_and_the_log_has_the_result(version: ContainerdVersion) {
    let installed = Installed::new();
    let containerd = &installed.containerd(version);
    let mut container = containerd.start(&Run::new(&cat()));
    let daemon = container.shims().remove(0).pid;
    let logged = |line: &str| {
        let log = || fs::read_to_string(containerd.log_path()).unwrap_or_default();
        wait_until(line, DEADLINE, || log().contains(line));
    };
    let signal = || {
        let status = Command::new("kill").args(["-USR2", &daemon.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()));
    };
    signal();
    logged("no upgrade: the installed executables run already");
    installed.again();
    signal();
    wait_until("the new version", DEADLINE, || runs(daemon, &installed.shim()));
    logged("continues with 1 containers");
    container.say(b"after\n");
    container.wait_for_output("after\n");
    install(Path::new("/bin/false"), &installed.shim());
    signal();
    logged("does not take over: exit status: 1");
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

wherry_e2e::on_containerd_versions!(
    version => version;
    no_client_notices_that_another_version_continues,
    a_version_that_refuses_leaves_the_old_one_running,
    a_signal_upgrades_too_and_the_log_has_the_result,
);
