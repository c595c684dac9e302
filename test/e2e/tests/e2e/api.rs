//! The Task API itself, for requests that no client of containerd can send: error codes, and
//! answers that must not wait.

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PidsRequest, PidsResponse, StartRequest, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, WaitRequest, WaitResponse,
};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::Code;
use std::fs;
use std::path::Path;
use wherry_e2e::images::{cat, glutton, hello_wasm, spin};
use wherry_e2e::on_containerds;
use wherry_e2e::shim::Shim;
use wherry_testing::{Container, Containerd, DEADLINE, Daemon, Process, Run, busybox, wait_until};

/// A message with its `id` set.
fn about<M: Message>(id: &str, set: impl FnOnce(&mut M, String)) -> M {
    let mut message = M::new();
    set(&mut message, id.to_owned());
    message
}

macro_rules! request {
    ($kind:ident, $id:expr) => {
        about::<$kind>($id, |message, id| message.id = id)
    };
}

fn state(shim: &Shim, id: &str) -> StateResponse {
    shim.call("State", &request!(StateRequest, id)).expect("State answers")
}

fn kill(id: &str, signal: u32) -> KillRequest {
    let mut request = request!(KillRequest, id);
    request.signal = signal;
    request
}

fn ended(container: &Container<'_>) {
    container.kill("KILL");
    wait_until("the end", DEADLINE, || container.ended());
}

fn creating_an_id_twice_is_already_exists(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let mut request = request!(CreateTaskRequest, container.id());
    request.bundle = container.bundle().display().to_string();
    let (code, text) = Shim::of(&container).refused("Create", &request);
    assert_eq!(code, Code::ALREADY_EXISTS, "{text}");
    assert!(text.contains(container.id()), "{text}");
    assert!(!container.ended());
}

fn an_unknown_id_is_not_found(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let refusals = [
        shim.refused("State", &request!(StateRequest, "missing")),
        shim.refused("Start", &request!(StartRequest, "missing")),
        shim.refused("Delete", &request!(DeleteRequest, "missing")),
        shim.refused("Kill", &kill("missing", 9)),
        shim.refused("Wait", &request!(WaitRequest, "missing")),
        shim.refused("Pids", &request!(PidsRequest, "missing")),
        shim.refused("Stats", &request!(StatsRequest, "missing")),
    ];
    for (code, text) in refusals {
        assert_eq!(code, Code::NOT_FOUND, "{text}");
        assert!(text.contains("missing"), "{text}");
    }
}

fn starting_twice_is_failed_precondition(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (code, text) =
        Shim::of(&container).refused("Start", &request!(StartRequest, container.id()));
    assert_eq!(code, Code::FAILED_PRECONDITION, "{text}");
}

fn deleting_what_runs_is_failed_precondition(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (code, text) =
        Shim::of(&container).refused("Delete", &request!(DeleteRequest, container.id()));
    assert_eq!(code, Code::FAILED_PRECONDITION, "{text}");
    assert!(!container.ended());
}

fn a_kill_after_the_exit_is_not_found(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    ended(&container);
    let (code, text) = Shim::of(&container).refused("Kill", &kill(container.id(), 15));
    assert_eq!(code, Code::NOT_FOUND, "{text}");
}

fn connect_and_pids_name_real_processes(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id, guest) = (Shim::of(&container), container.id(), container.pid());
    let connected: ConnectResponse =
        shim.call("Connect", &request!(ConnectRequest, id)).expect("Connect answers");
    assert_eq!(i32::try_from(connected.task_pid), Ok(guest));
    let daemon = i32::try_from(connected.shim_pid).expect("a pid");
    assert!(
        container.shims().iter().any(|shim| shim.pid == daemon),
        "{daemon} is not a shim of {id}"
    );
    let pids: PidsResponse = shim.call("Pids", &request!(PidsRequest, id)).expect("Pids answers");
    assert_eq!(
        pids.processes.iter().map(|process| process.pid).collect::<Vec<_>>(),
        [connected.task_pid]
    );
    // The guest has separate namespaces.
    let namespace = |pid: &str, kind: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs")
    };
    for kind in ["pid", "mnt", "net", "uts", "ipc"] {
        assert_ne!(namespace(&guest.to_string(), kind), namespace("self", kind), "{kind}");
    }
}

fn state_tells_what_is_and_asking_changes_nothing(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id());
    for _ in 0..3 {
        let now = state(&shim, id);
        assert_eq!(now.status.enum_value(), Ok(Status::RUNNING));
        assert_eq!(i32::try_from(now.pid), Ok(container.pid()));
        assert!(now.stdout.ends_with(&format!("{id}-stdout")), "{}", now.stdout);
    }
    ended(&container);
    for _ in 0..3 {
        let now = state(&shim, id);
        assert_eq!((now.status.enum_value(), now.exit_status), (Ok(Status::STOPPED), 137));
        assert!(now.exited_at.is_some());
    }
}

fn wait_answers_at_the_end_and_after_it(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let request = request!(WaitRequest, container.id());
    std::thread::scope(|scope| {
        let early =
            scope.spawn(|| shim.call::<WaitResponse>("Wait", &request).expect("Wait answers"));
        ended(&container);
        assert_eq!(early.join().expect("no panic").exit_status, 137);
    });
    let late: WaitResponse = shim.call("Wait", &request).expect("Wait answers after the end, too");
    assert_eq!(late.exit_status, 137);
    assert!(late.exited_at.is_some());
}

/// The metrics of a container that both versions of cgroups have.
#[derive(Debug)]
struct Metrics {
    cpu: u64,
    memory: u64,
    memory_limit: u64,
    processes: u64,
    written: u64,
    oom_kills: u64,
}

fn metrics(container: &Container<'_>) -> Metrics {
    let answer: StatsResponse = Shim::of(container)
        .call("Stats", &request!(StatsRequest, container.id()))
        .expect("Stats answers");
    let any = answer.stats.into_option().expect("it has metrics");
    if unified() {
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let given = v2::Metrics::parse_from_bytes(&any.value).expect("metrics");
        return Metrics {
            cpu: given.cpu.usage_usec,
            memory: given.memory.usage,
            memory_limit: given.memory.usage_limit,
            processes: given.pids.current,
            written: given.io.usage.iter().map(|device| device.wbytes).sum(),
            oom_kills: given.memory_events.oom_kill,
        };
    }
    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    let given = v1::Metrics::parse_from_bytes(&any.value).expect("metrics");
    let written = given.blkio.io_service_bytes_recursive.iter().filter(|entry| entry.op == "Write");
    Metrics {
        cpu: given.cpu.usage.total,
        memory: given.memory.usage.usage,
        memory_limit: given.memory.usage.limit,
        processes: given.pids.current,
        written: written.map(|entry| entry.value).sum(),
        oom_kills: given.memory_oom_control.oom_kill,
    }
}

fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn stats_tell_all_before_and_after_the_end(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()).memory(64 << 20));
    wait_until("it has computed", DEADLINE, || metrics(&container).cpu > 0);
    let before = metrics(&container);
    assert!(before.memory > 0 && before.memory <= before.memory_limit, "{before:?}");
    assert_eq!(before.memory_limit, 64 << 20);
    assert_eq!(before.processes, 1);
    assert_eq!(before.oom_kills, 0);
    ended(&container);
    let after = metrics(&container);
    assert!(after.cpu >= before.cpu, "{before:?} {after:?}");
    assert_eq!(after.memory_limit, 64 << 20);
}

fn stats_tell_an_oom_kill_after_the_end(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&glutton()).memory(64 << 20));
    wait_until("its end", DEADLINE, || container.ended());
    assert_eq!(metrics(&container).oom_kills, 1);
}

fn stats_tell_what_was_written_to_a_disk(containerd: &Containerd) {
    if !unified() {
        // On this host the kernel does not attribute written pages to a cgroup.
        return;
    }
    // /tmp may be in memory.
    let folder = tempfile::TempDir::new_in("/var/tmp").expect("a temporary folder");
    let script = "busybox dd if=/dev/zero of=/data/file bs=64k count=16 conv=fsync; sleep 100000";
    let run = Run::new(&busybox()).args(&["sh", "-c", script]).bind(folder.path(), "/data");
    let container = containerd.start(&run);
    wait_until("a megabyte", DEADLINE, || metrics(&container).written >= 1 << 20);
}

fn a_checkpoint_is_refused_in_a_sentence(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&cat()));
    let (shim, id) = (Shim::of(&container), container.id());
    let (code, text) = shim.refused("Checkpoint", &request!(CheckpointTaskRequest, id));
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert_eq!(text, "a checkpoint is not supported for WebAssembly containers");
}

fn closing_stdin_is_seen_by_the_guest(containerd: &Containerd) {
    let mut container = containerd.start(&Run::new(&cat()));
    container.close_input();
    let mut request = request!(CloseIORequest, container.id());
    request.stdin = true;
    let _: Empty = Shim::of(&container).call("CloseIO", &request).expect("CloseIO answers");
    assert_eq!(container.wait(), 0);
}

/// The shim announces version 3 to containerd 2, and version 2 to older ones.
fn the_newest_version_of_the_api_is_announced(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (socket, announced) = container.shim_address();
    let newest = if containerd.version().is_2() { 3 } else { 2 };
    assert_eq!(announced, newest);
    for version in [2, 3] {
        let now = state(&Shim::at(&socket, version), container.id());
        assert_eq!(now.status.enum_value(), Ok(Status::RUNNING), "version {version}");
    }
}

/// Creates another container in the shim of a running one, in a bundle without mounts: the bundle's
/// `rootfs` folder is its root.
fn create_beside(
    container: &Container<'_>,
    bundle: &Path,
    id: &str,
) -> Result<CreateTaskResponse, (Code, String)> {
    let mut request = request!(CreateTaskRequest, id);
    request.bundle = bundle.display().to_string();
    Shim::of(container).call("Create", &request)
}

fn a_bundle_whose_configuration_cannot_be_read_is_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let config = folder.path().join("config.json");
    fs::create_dir(folder.path().join("rootfs")).expect("it is writable");
    for text in [None, Some(""), Some(r#"{"ociVersion": "1.1.0", "process": {"#)] {
        if let Some(text) = text {
            fs::write(&config, text).expect("it is writable");
        }
        let (_, error) = create_beside(&container, folder.path(), "broken").expect_err("refused");
        assert!(error.contains(&config.display().to_string()), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        let (code, text) = Shim::of(&container).refused("State", &request!(StateRequest, "broken"));
        assert_eq!(code, Code::NOT_FOUND, "{text}");
    }
    assert!(!container.ended(), "the shim's other container continues");
    assert_eq!(container.shims().len(), 1);
}

/// A created container has a process, and a signal reaches it before Start.
fn a_signal_before_start_ends_a_created_container(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    for (signal, code) in [(15, 143), (9, 137)] {
        let id = format!("{}-created-{signal}", container.id());
        let folder = tempfile::TempDir::new_in(containerd.root()).expect("a temporary folder");
        let config = fs::read_to_string(container.bundle().join("config.json")).expect("its spec");
        let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
        config["linux"]["cgroupsPath"] = format!("/{}/{id}", containerd.namespace()).into();
        config["root"]["path"] = "rootfs".into();
        fs::write(folder.path().join("config.json"), config.to_string()).expect("it is writable");
        fs::create_dir(folder.path().join("rootfs")).expect("it is writable");
        fs::write(folder.path().join("rootfs/app.wasm"), hello_wasm()).expect("it is writable");
        let created = create_beside(&container, folder.path(), &id)
            .unwrap_or_else(|(_, error)| panic!("{error}"));
        assert_eq!(state(&shim, &id).status.enum_value(), Ok(Status::CREATED));
        let pid = i32::try_from(created.pid).expect("a pid");
        assert!(Process::of(pid).is_some(), "a created container is a process");

        let _: Empty = shim.call("Kill", &kill(&id, signal)).expect("Kill answers");
        let answer: WaitResponse =
            shim.call("Wait", &request!(WaitRequest, &id)).expect("Wait answers");
        assert_eq!(answer.exit_status, code);
        assert_eq!(state(&shim, &id).status.enum_value(), Ok(Status::STOPPED));
        shim.refused("Start", &request!(StartRequest, &id));
        let deleted: DeleteResponse =
            shim.call("Delete", &request!(DeleteRequest, &id)).expect("Delete answers");
        assert_eq!(deleted.exit_status, code);
        let (code, text) = shim.refused("State", &request!(StateRequest, &id));
        assert_eq!(code, Code::NOT_FOUND, "{text}");
        assert!(Process::of(pid).is_none());
    }
    assert!(!container.ended(), "the shim's other container continues");
}

/// As runc's shim answers.
fn deleting_an_exec_that_was_never_started_answers_status_0(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id().to_owned());
    let mut spec = Any::new();
    spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned();
    spec.value = br#"{"args": ["/app.wasm"], "cwd": "/", "user": {"uid": 0, "gid": 0}}"#.to_vec();
    let exec_id = "beside".to_owned();
    let request = ExecProcessRequest {
        id: id.clone(),
        exec_id: exec_id.clone(),
        spec: Some(spec).into(),
        ..ExecProcessRequest::new()
    };
    let _: Empty = shim.call("Exec", &request).expect("Exec answers");
    let request =
        DeleteRequest { id: id.clone(), exec_id: exec_id.clone(), ..DeleteRequest::new() };
    let deleted: DeleteResponse = shim.call("Delete", &request).expect("Delete answers");
    assert_eq!((deleted.exit_status, deleted.pid), (0, 0));
    let request = StateRequest { id, exec_id, ..StateRequest::new() };
    assert_eq!(shim.refused("State", &request).0, Code::NOT_FOUND);
}

on_containerds!(
    deleting_an_exec_that_was_never_started_answers_status_0,
    the_newest_version_of_the_api_is_announced,
    creating_an_id_twice_is_already_exists,
    an_unknown_id_is_not_found,
    starting_twice_is_failed_precondition,
    deleting_what_runs_is_failed_precondition,
    a_kill_after_the_exit_is_not_found,
    connect_and_pids_name_real_processes,
    state_tells_what_is_and_asking_changes_nothing,
    wait_answers_at_the_end_and_after_it,
    stats_tell_all_before_and_after_the_end,
    stats_tell_an_oom_kill_after_the_end,
    stats_tell_what_was_written_to_a_disk,
    a_checkpoint_is_refused_in_a_sentence,
    closing_stdin_is_seen_by_the_guest,
    a_bundle_whose_configuration_cannot_be_read_is_refused,
    a_signal_before_start_ends_a_created_container,
);
