//! Daemons that hand over to another version of their executables while containers run: `upgrade`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use containerd_shim_protos::api::{
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc;
use wherry_e2e::direct::{Direct, NAMESPACE};
use wherry_e2e::images::{cat, cat_wasm, hello};
use wherry_e2e::tests_in;
use wherry_testing::{
    Client, Container, Containerd, ContainerdVersion, DEADLINE, Daemon, Leftovers, Process, Run,
    bin_dir, shared, shim_program, wait_until,
};

use crate::upgrade::{Installed, install};

/// The number of containers of a manager, and the number of daemons with one container each.
fn count() -> usize {
    if shared() { 50 } else { 6 }
}

/// Calls the `upgrade` command for the daemons of this containerd.
fn upgrade(program: &Path, containerd: &Containerd) -> Output {
    upgrade_at(program, &containerd.address(), containerd.namespace())
}

fn upgrade_at(program: &Path, address: &Path, namespace: &str) -> Output {
    let mut command = Command::new(program);
    command.args(["upgrade", "-namespace", namespace, "-address"]).arg(address);
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
pub(crate) fn runs(pid: i32, path: &Path) -> bool {
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

/// Runs short containers until `ended`. Returns their ids.
fn run(containerd: &Containerd, ended: &AtomicBool) -> Vec<String> {
    let mut ids = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let container = containerd.start(&Run::new(&hello()));
        container.wait_for_output("hello\n");
        assert_eq!(container.wait(), 0);
        ids.push(container.id().to_owned());
        container.remove();
    }
    ids
}

/// Calls containerd about all containers until `ended`. Every call must succeed.
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
    let short = thread::scope(|scope| {
        let short = scope.spawn(|| run(containerd, &ended));
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
        short.join().expect("each container runs")
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
    let published = |id: &str| {
        wait_until("the last event", DEADLINE, || {
            events.topics(id).iter().any(|topic| topic == "/tasks/delete")
        });
        let mut topics = events.topics(id);
        topics.retain(|topic| topic.starts_with("/tasks/"));
        topics
    };
    let life = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert!(!short.is_empty());
    for id in short {
        assert_eq!(published(&id), life, "of {id}");
    }
    for (n, id) in ids.iter().enumerate() {
        let topics = published(id);
        let count = |topic: &str| topics.iter().filter(|found| *found == topic).count();
        let execs = count("/tasks/exec-added");
        assert_eq!(count("/tasks/exec-started"), execs, "of {id}: {topics:?}");
        let counts = life.map(count);
        assert_eq!(counts, [1, 1, execs + 1, 1], "of {id}: {topics:?}");
        let session = events.topics(&format!("e-{id}"));
        let expected: &[&str] = match n % 2 {
            0 => &["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"],
            _ => &[],
        };
        assert_eq!(session, expected, "of the session in {id}");
    }
    leftovers.assert_none_new();
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

    // The cause is removed.
    installed.again();
    let output = upgrade(&own, containerd);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(runs(daemon.pid, &installed.shim()));
    let output = upgrade(&own, containerd);
    assert!(text(&output.stdout).contains("runs the installed version"), "{output:?}");
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

/// The frame of a request about this container.
fn frame(direct: &Direct, service: &str, stream: u32, method: &str) -> Vec<u8> {
    let mut body = StateRequest::new();
    body.id = direct.id().to_owned();
    let mut request = ttrpc::Request::new();
    request.service = service.to_owned();
    request.method = method.to_owned();
    request.payload = body.write_to_bytes().expect("a complete message");
    let payload = request.write_to_bytes().expect("a complete message");
    let length = u32::try_from(payload.len()).expect("it fits");
    [Vec::from(ttrpc::MessageHeader::new_request(stream, length)), payload].concat()
}

/// The next response, and its stream.
fn response(socket: &mut UnixStream) -> (u32, ttrpc::Response) {
    let mut header = [0; 10];
    socket.read_exact(&mut header).expect("a response");
    let header = ttrpc::MessageHeader::from(header);
    let mut payload = vec![0; usize::try_from(header.length).expect("it fits")];
    socket.read_exact(&mut payload).expect("a response");
    (header.stream_id, ttrpc::Response::parse_from_bytes(&payload).expect("a response"))
}

/// A container that waits for Start, with output to a file; a request of which the shim has read
/// the first bytes; and a Wait.
fn half_a_request_and_a_container_before_its_start_are_handed_over(containerd: &Containerd) {
    let installed = Installed::new();
    let id = format!("half-{}", containerd.namespace());
    let direct = Direct::of(&installed.shim(), containerd, &id, &cat_wasm(), b"");
    let (stdin, stdout) = (direct.path().join("in"), direct.path().join("out"));
    let made = Command::new("mkfifo").arg(&stdin).status();
    assert!(made.is_ok_and(|status| status.success()));
    let mut input = File::options().read(true).write(true).open(&stdin).expect("it exists");
    let mut create = direct.create_request();
    create.stdin = stdin.display().to_string();
    create.stdout = format!("file://{}", stdout.display());
    let shim = direct.connect();
    shim.call::<CreateTaskResponse>("Create", &create).expect("it is created");
    let mut socket = UnixStream::connect(direct.socket()).expect("the shim listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let wait = frame(&direct, shim.service(), 1, "Wait");
    socket.write_all(&wait).expect("the shim listens");
    let upgrade = || {
        installed.again();
        let output = upgrade_at(&installed.shim(), direct.address(), NAMESPACE);
        assert!(text(&output.stdout).contains("upgraded from"), "{output:?}");
    };
    let state = frame(&direct, shim.service(), 3, "State");
    for length in [4, 10, 17, state.len() - 1] {
        socket.write_all(&state[..length]).expect("the shim listens");
        upgrade();
        socket.write_all(&state[length..]).expect("the shim listens");
        let (stream, response) = response(&mut socket);
        let state = StateResponse::parse_from_bytes(&response.payload).expect("a state");
        assert_eq!((stream, state.status()), (3, Status::CREATED), "after {length} bytes");
    }
    let mut request = StartRequest::new();
    request.id = direct.id().to_owned();
    shim.call::<StartResponse>("Start", &request).expect("it starts");
    let mut expected = String::new();
    for line in ["one\n", "two\n"] {
        input.write_all(line.as_bytes()).expect("the guest reads");
        expected += line;
        let written = || fs::read_to_string(&stdout).unwrap_or_default();
        wait_until("the output", DEADLINE, || written() == expected);
        upgrade();
    }
    let mut kill = KillRequest::new();
    kill.id = direct.id().to_owned();
    kill.signal = 9;
    shim.call::<Empty>("Kill", &kill).expect("it runs");
    let (stream, response) = response(&mut socket);
    let exit = WaitResponse::parse_from_bytes(&response.payload).expect("an exit");
    assert_eq!((stream, exit.exit_status), (1, 137));
    let mut delete = DeleteRequest::new();
    delete.id = direct.id().to_owned();
    shim.call::<DeleteResponse>("Delete", &delete).expect("it has ended");
    shim.try_call("Shutdown", &ShutdownRequest::new());
    direct.wait_gone(DEADLINE);
}

tests_in!(
    directly,
    Containerd::shared(ContainerdVersion::V2),
    half_a_request_and_a_container_before_its_start_are_handed_over
);

/// The exit is published by the version after the next one of that which has reaped the process.
fn an_exit_while_containerd_is_down_is_published_by_a_later_version(version: ContainerdVersion) {
    let installed = Installed::new();
    let containerd = &installed.containerd(version);
    let mut stays = containerd.start(&Run::new(&cat()));
    let ends = containerd.start(&Run::new(&cat()));
    let (staying, ending) = (stays.pid(), ends.pid());
    let daemons: Vec<i32> =
        stays.shims().iter().chain(&ends.shims()).map(|shim| shim.pid).collect();
    containerd.kill9();
    let status = Command::new("kill").args(["-KILL", &ending.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
    wait_until("the guest's end", DEADLINE, || Process::of(ending).is_none());
    for _ in 0..2 {
        installed.again();
        let output = upgrade(&installed.shim(), containerd);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(daemons.iter().all(|daemon| runs(*daemon, &installed.shim())));
    }
    stays.say(b"between\n");
    stays.wait_for_output("between\n");
    containerd.start_again();
    assert_eq!(ends.wait(), 137);
    assert_eq!(stays.pid(), staying);
    stays.say(b"after\n");
    stays.wait_for_output("after\n");
    stays.kill("TERM");
    assert_eq!(stays.wait(), 143);
}

/// The number of descriptors of a process.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// The children of a process that have ended and were not reaped.
fn zombies(pid: i32) -> usize {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(children).expect("it runs");
    let state = |child: &str| fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    children.split(' ').filter(|child| state(child).contains(") Z ")).count()
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
    let before = descriptors(daemon);
    signal();
    wait_until("the new version", DEADLINE, || runs(daemon, &installed.shim()));
    logged("runs now, with 1 containers");
    let name = fs::read_to_string(format!("/proc/{daemon}/comm")).expect("it runs");
    assert!(shim_program().starts_with(name.trim()), "{name}");
    wait_until("as many descriptors as before", DEADLINE, || descriptors(daemon) == before);
    wait_until("no zombies", DEADLINE, || zombies(daemon) == 0);
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
    an_exit_while_containerd_is_down_is_published_by_a_later_version,
);
