//! Features of Docker alone: stop and restart, configured runtimes, platforms, shared namespaces.

use serde_json::json;
use std::fs;
use wherry_e2e::images::{app, exit, hello, hello_wasm, spin};
use wherry_e2e::on_dockers;
use wherry_testing::{
    DEADLINE, Daemon, Docker, DockerVersion, Leftovers, Process, Run, busybox, engine, runtime,
    shared, wait_until,
};

fn stop_needs_no_kill(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()));
    container.wait_for_output("ready\n");
    docker.docker(&["stop", "--time", "60", container.id()]).success();
    // Docker's SIGKILL after the timeout would have given 137.
    assert_eq!(container.wait(), 143);
    assert_eq!(docker.inspect(container.id(), "{{.State.OOMKilled}}").as_deref(), Some("false"));
}

fn restart_runs_an_ended_one_again(docker: &Docker) {
    let container = docker.start(&Run::new(&hello()));
    assert_eq!(container.wait(), 0);
    docker.docker(&["restart", container.id()]).success();
    assert_eq!(container.wait(), 0);
    assert_eq!(container.stdout(), b"hello\nhello\n");
}

fn restart_runs_a_running_one_again(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()));
    container.wait_for_output("ready\n");
    let before = container.pid();
    docker.docker(&["restart", "--time", "60", container.id()]).success();
    container.wait_for_output("ready\nready\n");
    assert_ne!(container.pid(), before);
    assert!(Process::of(before).is_none(), "the first guest is still there");
}

fn restart_runs_a_running_native_one_again(docker: &Docker) {
    let script = "echo ready; exec sleep 100000";
    let container = docker.start(&Run::new(&busybox()).args(&["sh", "-c", script]));
    container.wait_for_output("ready\n");
    docker.docker(&["restart", "--time", "0", container.id()]).success();
    container.wait_for_output("ready\nready\n");
}

fn a_failing_one_is_restarted_as_often_as_told(docker: &Docker) {
    let container = docker.start(&Run::new(&exit(3)).extra(&["--restart", "on-failure:2"]));
    let count = || docker.inspect(container.id(), "{{.RestartCount}} {{.State.Status}}");
    wait_until("two restarts", DEADLINE, || count().as_deref() == Some("2 exited"));
    assert_eq!(container.wait(), 3);
}

fn what_goes_well_is_not_restarted(docker: &Docker) {
    let container = docker.start(&Run::new(&hello()).extra(&["--restart", "on-failure:2"]));
    assert_eq!(container.wait(), 0);
    assert_eq!(docker.inspect(container.id(), "{{.RestartCount}}").as_deref(), Some("0"));
    assert_eq!(container.stdout(), b"hello\n");
}

fn logs_give_both_streams(docker: &Docker) {
    let script = "echo to stdout; echo to stderr >&2; exec sleep 100000";
    let container = docker.start(&Run::new(&busybox()).args(&["sh", "-c", script]));
    wait_until("both streams", DEADLINE, || {
        container.stdout() == b"to stdout\n" && container.stderr() == b"to stderr\n"
    });
    let container = docker.start(&Run::new(&hello()));
    assert_eq!(container.wait(), 0);
    let logs = docker.docker(&["logs", container.id()]);
    assert_eq!((logs.success().as_str(), logs.err().as_str()), ("hello\n", ""));
}

fn an_image_for_wasi_runs(docker: &Docker) {
    let image = app("for-wasi", hello_wasm()).platform("wasi", "wasm");
    // The test library passes the platform, as for every image that is not for Linux.
    let outcome = docker.run(&Run::new(&image));
    assert!(outcome.command.contains("--platform wasi/wasm"), "{outcome}");
    assert_eq!(outcome.success(), "hello\n");
}

/// A guest in the host's namespaces is killed like any other, and nothing of it stays in them.
fn in_the_hosts_namespaces_signals_work(docker: &Docker) {
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
    for (words, kinds) in [
        (["--pid", "host"].as_slice(), ["pid"].as_slice()),
        (&["--net", "host"], &[]),
        (
            &["--pid", "host", "--net", "host", "--ipc", "host", "--uts", "host"],
            &["pid", "ipc", "uts"],
        ),
    ] {
        let container = docker.start(&Run::new(&spin()).extra(words));
        container.wait_for_output("ready\n");
        let pid = container.pid();
        for kind in kinds {
            assert_eq!(namespace(&pid.to_string(), kind), namespace("self", kind), "{words:?}");
        }
        let shims = container.shims();
        assert!(!shims.is_empty(), "{words:?}");
        container.kill("TERM");
        assert_eq!(container.wait(), 143, "{words:?}");
        container.remove();
        // A manager stays.
        let shims = shims.iter().map(|shim| shim.pid).filter(|_| !shared());
        for process in shims.chain([pid]) {
            wait_until("all of it is gone", DEADLINE, || Process::of(process).is_none());
        }
    }
}

on_dockers!(
    stop_needs_no_kill,
    restart_runs_an_ended_one_again,
    restart_runs_a_running_one_again,
    restart_runs_a_running_native_one_again,
    a_failing_one_is_restarted_as_often_as_told,
    what_goes_well_is_not_restarted,
    logs_give_both_streams,
    an_image_for_wasi_runs,
    in_the_hosts_namespaces_signals_work,
);

/// With live-restore, containers survive dockerd.
fn a_container_outlives_dockerd(version: DockerVersion) {
    let docker = Docker::start_with(version, json!({"live-restore": true}));
    docker.run(&Run::new(&hello())).success();
    let leftovers = Leftovers::snapshot(&docker);
    let script = "while sleep 0.1; do [ -e /text ] && cat /text && rm /text; done";
    let native = docker.start(&Run::new(&busybox()).args(&["sh", "-c", script]));
    let guest = docker.start(&Run::new(&spin()));
    guest.wait_for_output("ready\n");
    let pids = || [native.pid(), guest.pid()];
    let print = |text: &str| {
        let root = format!("/proc/{}/root", native.pid());
        fs::write(format!("{root}/.text"), text).expect("its root is there");
        fs::rename(format!("{root}/.text"), format!("{root}/text")).expect("its root is there");
        native.wait_for_output(text);
    };
    print("before\n");
    let before = pids();
    docker.kill9();
    docker.start_again();
    assert_eq!(pids(), before, "they are still the same processes");
    print("after\n");
    assert_eq!(native.stdout(), b"before\nafter\n");
    assert_eq!(guest.stdout(), b"ready\n");
    docker.docker(&["stop", "--time", "60", guest.id()]).success();
    assert_eq!(guest.wait(), 143);
    for container in [native, guest] {
        container.remove();
    }
    leftovers.assert_none_new();
}

/// A runtime with a name of the user's choice, with and without options, including meaningless
/// ones.
fn a_runtime_from_the_configuration_runs(version: DockerVersion) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("options.toml");
    fs::write(&file, "SystemdCgroup = false\nKeyOfAnotherRuntime = 1\n").expect("it is writable");
    let kind = runtime();
    let docker = Docker::start_with(
        version,
        json!({"runtimes": {
            "plain": {"runtimeType": kind},
            "tuned": {"runtimeType": kind, "options": {"SystemdCgroup": false}},
            "strange": {"runtimeType": kind, "options": {"KeyOfAnotherRuntime": "value", "Number": 7}},
            "file": {
                "runtimeType": kind,
                "options": {"TypeUrl": format!("{}.options", engine()), "ConfigPath": file},
            },
        }}),
    );
    for name in ["plain", "tuned", "strange", "file"] {
        let outcome = docker.run(&Run::new(&hello()).runtime(name));
        assert_eq!(outcome.code, 0, "{name}: {outcome}");
        assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("hello\n", ""), "{name}");
    }
}

/// Docker's classic image store, without containerd's snapshots: dockerd mounts the root.
fn an_image_in_dockers_own_store_runs(version: DockerVersion) {
    let docker =
        Docker::start_with(version, json!({"features": {"containerd-snapshotter": false}}));
    let driver = docker.docker(&["info", "--format", "{{.Driver}}"]).success();
    assert!(!driver.contains("overlayfs"), "{driver}");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let text = "FROM scratch\nCOPY app.wasm /app.wasm\nENTRYPOINT [\"/app.wasm\"]\n";
    fs::write(folder.path().join("Dockerfile"), text).expect("it is writable");
    fs::write(folder.path().join("app.wasm"), hello_wasm()).expect("it is writable");
    let folder = folder.path().display().to_string();
    docker.docker(&["build", "--tag", "app", &folder]).success();
    let run = ["run", "--rm", "--runtime", &runtime(), "app"];
    for _ in 0..2 {
        assert_eq!(docker.docker(&run).success(), "hello\n");
    }
}

mod own {
    use super::{
        a_container_outlives_dockerd, a_runtime_from_the_configuration_runs,
        an_image_in_dockers_own_store_runs,
    };

    wherry_e2e::on_docker_versions!(
        version => version;
        a_container_outlives_dockerd,
        a_runtime_from_the_configuration_runs,
        an_image_in_dockers_own_store_runs
    );
}
