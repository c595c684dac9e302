//! Requests that no honest client sends: the shim answers each with a suitable error code, and
//! continues to serve its container.

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, Empty, ExecProcessRequest, KillRequest,
    Mount, ResizePtyRequest, StartRequest, StateRequest, StateResponse, UpdateTaskRequest,
    WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedOutputStream, Message};
use containerd_shim_protos::ttrpc::{self, Code};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use wherry_e2e::beside::{Beside, is_a_sentence, lives_on};
use wherry_e2e::images::spin;
use wherry_e2e::on_containerds;
use wherry_e2e::shim::Shim;
use wherry_testing::{Containerd, DEADLINE, Daemon, Run, wait_until};

const METHODS: [&str; 17] = [
    "Checkpoint",
    "CloseIO",
    "Connect",
    "Create",
    "Delete",
    "Exec",
    "Kill",
    "Pause",
    "Pids",
    "ResizePty",
    "Resume",
    "Shutdown",
    "Start",
    "State",
    "Stats",
    "Update",
    "Wait",
];

fn bytes_that_are_no_message_are_an_invalid_argument(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let broken: [(&str, Vec<u8>); 6] = [
        ("no varint ever ends", vec![0xff; 16]),
        ("a string that is cut off", vec![0x0a, 100, b'x', b'y']),
        ("a string that is longer than can be", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a string that is not UTF-8", vec![0x0a, 2, 0xff, 0xfe]),
        ("a wire type that does not exist", vec![0x0f, 1, 2, 3]),
        ("the field zero", vec![0x02, 1, b'x']),
    ];
    for method in METHODS {
        for (what, bytes) in &broken {
            let result = shim.call_with(shim.service(), method, bytes.clone());
            let (code, text) = result.expect_err(&format!("{method}: {what}"));
            assert_eq!(code, Code::INVALID_ARGUMENT, "{method}: {what}: {text}");
            is_a_sentence(&text);
            assert!(text.contains(method), "{method}: {what}: {text}");
        }
    }
    lives_on(containerd, &container);
}

/// Protobuf skips a field of another wire type: the rest is a request without an id, or with one of
/// 4 MB.
fn a_request_about_nobody_changes_nothing(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let mut long = Vec::new();
    let mut stream = CodedOutputStream::vec(&mut long);
    stream.write_string(1, &"x".repeat((4 << 20) - 1024)).expect("it is in memory");
    stream.flush().expect("it is in memory");
    drop(stream);
    for payload in [vec![], vec![0x08, 1], long] {
        for method in METHODS {
            let result = shim.call_with(shim.service(), method, payload.clone());
            if method == "Shutdown" {
                // The shim has a container, so it does not exit.
                result.expect("Shutdown answers");
                continue;
            }
            let (code, text) = result.expect_err(method);
            let expected = match method {
                "Create" => Code::INVALID_ARGUMENT,
                "Checkpoint" => Code::UNIMPLEMENTED,
                _ => Code::NOT_FOUND,
            };
            assert_eq!(code, expected, "{method}: {text}");
            is_a_sentence(&text);
        }
    }
    lives_on(containerd, &container);
}

fn unknown_methods_and_services_are_said(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    for method in ["Explode", "", "state", "../State"] {
        let (code, text) =
            shim.call_with(shim.service(), method, vec![]).expect_err("the method does not exist");
        assert_eq!(code, Code::UNIMPLEMENTED, "{text}");
    }
    for service in ["containerd.task.v9.Task", "", "containerd.services.images.v1.Images"] {
        let (code, text) =
            shim.call_with(service, "State", vec![]).expect_err("the service does not exist");
        assert!(matches!(code, Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED), "{code:?} {text}");
        assert!(text.contains(service), "{text}");
    }
    lives_on(containerd, &container);
}

/// A frame: the length in its header, the stream, the type, and the content.
fn frame(length: usize, stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(length).expect("it fits").to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(payload);
    bytes
}

fn request(shim: &Shim, method: &str, message: &impl Message) -> Vec<u8> {
    let request = ttrpc::Request {
        service: shim.service().to_owned(),
        method: method.to_owned(),
        payload: message.write_to_bytes().expect("a complete message"),
        ..Default::default()
    };
    request.write_to_bytes().expect("a complete message")
}

fn frames_that_lie_end_their_own_connection_at_the_most(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let (socket, _) = container.shim_address();
    let about = ConnectRequest { id: container.id().to_owned(), ..Default::default() };
    let good = request(&shim, "Connect", &about);
    let frames = [
        vec![],
        vec![0],
        vec![0xff; 10],
        vec![0xff; 4096],
        frame(good.len() + 100, 1, 1, &good),
        frame(good.len() - 1, 1, 1, &good),
        frame(0, 1, 1, &good),
        frame(4 << 20, 1, 1, &good),
        frame((4 << 20) + 1, 1, 1, &good),
        frame(u32::MAX as usize, 1, 1, &good),
        frame(good.len(), 0, 1, &good),
        frame(good.len(), 2, 1, &good),
        frame(good.len(), 1, 0, &good),
        frame(good.len(), 1, 2, &good),
        frame(good.len(), 1, 3, &good),
        frame(good.len(), 1, 255, &good),
        frame(3, 1, 1, &[0xff; 3]),
        [frame(good.len(), 1, 1, &good), frame(good.len(), 1, 1, &good)].concat(),
    ];
    for bytes in &frames {
        // The client disconnects at once, after its request, and in the middle of the answer.
        for wait in [None, Some(0), Some(1)] {
            let mut stream = UnixStream::connect(&socket).expect("the shim listens");
            stream.write_all(bytes).expect("the shim reads");
            if let Some(bytes) = wait {
                stream.shutdown(std::net::Shutdown::Write).expect("it is open");
                // The shim may close the connection instead of an answer.
                let _ = stream.read(&mut vec![0; bytes]);
            }
        }
    }
    lives_on(containerd, &container);
}

fn a_create_whose_client_goes_away_is_carried_out(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let (socket, _) = container.shim_address();
    let id = format!("{}-left", container.id());
    let config = Beside::config_like(&container, containerd, &id);
    for _ in 0..3 {
        let beside = Beside::new(containerd, &id, &config);
        let create = request(&shim, "Create", &beside.request());
        let mut stream = UnixStream::connect(&socket).expect("the shim listens");
        stream.write_all(&frame(create.len(), 1, 1, &create)).expect("the shim reads");
        drop(stream);
        let about = StateRequest { id: id.clone(), ..Default::default() };
        wait_until("the container", DEADLINE, || {
            shim.call::<StateResponse>("State", &about).is_ok()
        });
        beside.delete(&shim).expect("it can be deleted");
    }
    lives_on(containerd, &container);
}

/// containerd does this when its own client disconnects.
fn a_delete_ends_the_create_that_is_on_its_way(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let (socket, _) = container.shim_address();
    let id = format!("{}-regretted", container.id());
    let config = Beside::config_like(&container, containerd, &id);
    for _ in 0..3 {
        let beside = Beside::new(containerd, &id, &config);
        let create = request(&shim, "Create", &beside.request());
        let about = DeleteRequest { id: id.clone(), ..Default::default() };
        let delete = request(&shim, "Delete", &about);
        let mut stream = UnixStream::connect(&socket).expect("the shim listens");
        // The requests of one connection begin in order.
        let both = [frame(create.len(), 1, 1, &create), frame(delete.len(), 3, 1, &delete)];
        stream.write_all(&both.concat()).expect("the shim reads");
        let mut answers = [(); 2].map(|()| {
            let mut header = [0; 10];
            stream.read_exact(&mut header).expect("both are answered");
            let length = u32::from_be_bytes(header[..4].try_into().expect("four bytes"));
            let of = u32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
            let mut answer = vec![0; length as usize];
            stream.read_exact(&mut answer).expect("both are answered");
            let answer = ttrpc::Response::parse_from_bytes(&answer).expect("a response");
            (of, answer.status().code(), answer.status().message().to_owned())
        });
        answers.sort_by_key(|(of, ..)| *of);
        // Once cancelled, the container cannot be deleted. It may have existed by then.
        match &answers {
            [(_, Code::OK, _), (_, Code::OK, _)] => {}
            [(_, Code::UNKNOWN, text), (_, Code::NOT_FOUND, _)] => {
                assert!(text.contains("was cancelled"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let about = StateRequest { id: id.clone(), ..Default::default() };
        assert_eq!(shim.refused("State", &about).0, Code::NOT_FOUND);
        assert!(!beside.path().join("wherry").exists());
    }
    lives_on(containerd, &container);
}

fn ids_that_are_none_are_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id());
    let long = "x".repeat(256);
    for wrong in ["", ".", "..", "a/b", "../up", "/abs", "a b", "a\0b", "a\nb", "ü", &long] {
        let create = CreateTaskRequest { id: wrong.to_owned(), ..Default::default() };
        let mut exec = ExecProcessRequest { id: id.to_owned(), ..Default::default() };
        exec.exec_id = wrong.to_owned();
        exec.spec = Some(process(json!({"cwd": "/", "args": ["/app.wasm"]}))).into();
        for (code, text) in [shim.refused("Create", &create), shim.refused("Exec", &exec)] {
            assert_eq!(code, Code::INVALID_ARGUMENT, "{wrong:?}: {text}");
            is_a_sentence(&text);
        }
        if wrong.is_empty() {
            continue;
        }
        // Such a process cannot exist: each request for it gets NOT_FOUND. In the requests of all
        // these methods the first two fields are the ids.
        let about =
            StateRequest { id: id.to_owned(), exec_id: wrong.to_owned(), ..Default::default() };
        for method in ["CloseIO", "Delete", "Kill", "ResizePty", "Start", "State", "Wait"] {
            let (code, text) = shim.refused(method, &about);
            assert_eq!(code, Code::NOT_FOUND, "{method} {wrong:?}: {text}");
            is_a_sentence(&text);
        }
    }
    lives_on(containerd, &container);
}

fn absurd_sizes_and_signals_are_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id());
    let beside_id = format!("{id}-terminal");
    let beside = Beside::new(
        containerd,
        &beside_id,
        &Beside::config_like(&container, containerd, &beside_id),
    );
    let mut config = Beside::config_like(&container, containerd, &beside_id);
    config["process"]["terminal"] = true.into();
    beside.configure(&config.to_string());
    let create = CreateTaskRequest { terminal: true, ..beside.request() };
    shim.call::<Empty>("Create", &create).expect("a terminal with no pipe is a terminal");
    for (width, height, fits) in [
        (1_000_000_000, 24, false),
        (80, 1_000_000_000, false),
        (u32::MAX, u32::MAX, false),
        (65536, 1, false),
        (0, 0, true),
        (65535, 65535, true),
    ] {
        let resize =
            ResizePtyRequest { id: beside_id.clone(), width, height, ..Default::default() };
        if fits {
            shim.call::<Empty>("ResizePty", &resize).expect("a terminal may have any size it can");
        } else {
            let (code, text) = shim.refused("ResizePty", &resize);
            assert_eq!(code, Code::INVALID_ARGUMENT, "{text}");
            assert!(text.contains(&width.to_string()), "{text}");
        }
    }
    beside.delete(&shim).expect("it was never started");
    let no_terminal =
        ResizePtyRequest { id: id.to_owned(), width: 80, height: 24, ..Default::default() };
    assert_eq!(shim.refused("ResizePty", &no_terminal).0, Code::INVALID_ARGUMENT);

    for signal in [65, 1000, u32::MAX, 1 << 31] {
        let kill = KillRequest { id: id.to_owned(), signal, ..Default::default() };
        let (code, text) = shim.refused("Kill", &kill);
        assert_eq!(code, Code::INVALID_ARGUMENT, "{text}");
        assert!(text.contains(&signal.to_string()), "{text}");
    }
    // Signal 0 checks for existence.
    let kill = KillRequest { id: id.to_owned(), signal: 0, all: true, ..Default::default() };
    shim.call::<Empty>("Kill", &kill).expect("there is");
    lives_on(containerd, &container);
}

fn any(type_url: &str, value: impl Into<Vec<u8>>) -> Any {
    Any { type_url: type_url.to_owned(), value: value.into(), ..Default::default() }
}

fn process(value: serde_json::Value) -> Any {
    any("types.containerd.io/opencontainers/runtime-spec/1/Process", value.to_string())
}

fn absurd_limits_are_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id());
    let url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
    // No JSON, JSON of another kind, another type of message: each is a fault of the request.
    let wrong = [
        any(url, ""),
        any(url, "\u{0}\u{1}"),
        any(url, vec![0xff; 100]),
        any(url, "[".repeat(100_000)),
        any(url, "7"),
        any(url, r#"{"memory": {"limit": "much"}}"#),
        any(url, r#"{"memory": {"limit": 1e300}}"#),
        any(url, r#"{"memory": 7}"#),
        any(url, r#"{"pids": {"limit": {}}}"#),
        any("types.containerd.io/opencontainers/runtime-spec/1/WindowsResources", "{}"),
        any("", ""),
    ];
    for resources in wrong {
        let update = UpdateTaskRequest {
            id: id.to_owned(),
            resources: Some(resources.clone()).into(),
            ..Default::default()
        };
        let (code, text) = shim.refused("Update", &update);
        assert_eq!(code, Code::INVALID_ARGUMENT, "{resources:?}: {text}");
        is_a_sentence(&text);
    }
    // Values that the kernel refuses.
    for resources in [
        json!({"memory": {"limit": -7}}),
        json!({"memory": {"limit": 1}}),
        json!({"cpu": {"quota": -7}}),
        json!({"cpu": {"quota": 1}}),
        json!({"cpu": {"quota": i64::MAX}}),
        json!({"cpu": {"period": u64::MAX}}),
        json!({"cpu": {"cpus": "0-99999"}}),
        json!({"cpu": {"cpus": "../../x"}}),
        json!({"pids": {"limit": i64::MAX}}),
    ] {
        let update = UpdateTaskRequest {
            id: id.to_owned(),
            resources: Some(any(url, resources.to_string())).into(),
            ..Default::default()
        };
        // The kernel accepts some of them as the minimum or the maximum.
        if let Err((code, text)) = shim.call::<Empty>("Update", &update) {
            assert!(!matches!(code, Code::NOT_FOUND | Code::INTERNAL), "{resources}: {text}");
            assert!(text.contains("cannot set "), "{resources}: {text}");
            is_a_sentence(&text);
        }
    }
    lives_on(containerd, &container);
}

fn a_process_that_cannot_be_is_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let (shim, id) = (Shim::of(&container), container.id());
    let request = |spec: Option<Any>| ExecProcessRequest {
        id: id.to_owned(),
        exec_id: "e".to_owned(),
        spec: spec.into(),
        ..Default::default()
    };
    let no = |what: &str, spec: Option<Any>, word: &str| {
        let (code, text) = shim.refused("Exec", &request(spec));
        assert_eq!(code, Code::INVALID_ARGUMENT, "{what}: {text}");
        assert!(text.contains(word), "{what}: {text}");
        is_a_sentence(&text);
    };
    let user = json!({"uid": 0, "gid": 0});
    no("nothing", None, "invalid process to execute: ");
    no("no JSON", Some(process(json!(null))), "invalid process to execute: ");
    no("a list", Some(any("", "[[[[")), "invalid process to execute: ");
    no("another message", Some(any("google.protobuf.Empty", "{}")), "google.protobuf.Empty");
    // The remaining faults are errors of Start.
    let start = StartRequest { id: id.to_owned(), exec_id: "e".to_owned(), ..Default::default() };
    let delete = DeleteRequest { id: id.to_owned(), exec_id: "e".to_owned(), ..Default::default() };
    let invalid = json!({"uid": -1, "gid": 0});
    for (spec, word) in [
        (json!({"args": ["/app.wasm"], "user": user}), "cwd"),
        (json!({"args": ["/app.wasm"], "user": user, "cwd": "x"}), "cwd"),
        (json!({"args": 7, "cwd": "/"}), "args"),
        (json!({"args": ["/app.wasm", "a\0b"], "user": user, "cwd": "/"}), "NUL"),
        (json!({"args": ["/a"], "env": ["a=\0"], "user": user, "cwd": "/"}), "NUL"),
        (json!({"args": ["/a"], "cwd": "/", "user": invalid}), "uid"),
        (json!({"cwd": "/", "user": user}), "no entrypoint"),
        (json!({"args": [], "cwd": "/", "user": user}), "no entrypoint"),
        (json!({"args": ["/nope"], "cwd": "/", "user": user}), "\"/nope\""),
        (json!({"args": ["/app.wasm"], "cwd": "/nope", "user": user}), "/nope"),
        (json!({"args": ["x".repeat(300_000)], "cwd": "/", "user": user}), "larger"),
    ] {
        shim.call::<Empty>("Exec", &request(Some(process(spec)))).expect("Start reports the fault");
        let (_, text) = shim.refused("Start", &start);
        assert!(text.contains(word), "{word}: {text}");
        is_a_sentence(&text);
        shim.call::<containerd_shim_protos::api::DeleteResponse>("Delete", &delete)
            .expect("one that never was can be deleted");
    }
    lives_on(containerd, &container);
}

fn options_of_the_wrong_type_are_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let id = format!("{}-options", container.id());
    let beside = Beside::new(containerd, &id, &Beside::config_like(&container, containerd, &id));
    let create =
        |options: Any| CreateTaskRequest { options: Some(options).into(), ..beside.request() };
    let toml = |text: &str| {
        let mut value = Vec::new();
        let mut stream = CodedOutputStream::vec(&mut value);
        stream.write_string(1, "x").expect("it is in memory");
        stream.write_bytes(3, text.as_bytes()).expect("it is in memory");
        stream.flush().expect("it is in memory");
        drop(stream);
        any("runtimeoptions.v1.Options", value)
    };
    let file = |path: &str| {
        let mut value = Vec::new();
        let mut stream = CodedOutputStream::vec(&mut value);
        stream.write_string(2, path).expect("it is in memory");
        stream.flush().expect("it is in memory");
        drop(stream);
        any("runtimeoptions.v1.Options", value)
    };
    for options in [
        toml(r#"SystemdCgroup = "yes""#),
        toml("IoUid = -1"),
        toml("IoUid = 1.5"),
        toml("ShimCgroup = []"),
        toml("SystemdCgroup"),
        toml(&format!("x = {}", "[".repeat(100_000))),
        toml(&"x".repeat(1 << 20)),
        file("/no/such/file"),
        file("/dev/zero"),
        file("/"),
        any("runtimeoptions.v1.Options", vec![0xff; 100]),
        any("containerd.runc.v1.Options", vec![0xff; 100]),
        any("containerd.runc.v1.Options", vec![0x0a, 100, 1]),
    ] {
        let (code, text) = shim.refused("Create", &create(options));
        assert_eq!(code, Code::INVALID_ARGUMENT, "{text}");
        assert!(text.contains("runtime options"), "{text}");
        is_a_sentence(&text);
    }
    // Options of another runtime are ignored.
    for options in [
        any("another.runtime.Options", vec![0xff; 1 << 20]),
        toml(&format!("# {}\n[Table]\nx = 1\n", "x".repeat(1 << 20))),
    ] {
        shim.call::<Empty>("Create", &create(options)).expect("they are ignored");
        beside.delete(&shim).expect("it was never started");
    }
    lives_on(containerd, &container);
}

fn mounts_and_streams_that_cannot_be_are_refused(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let id = format!("{}-refused", container.id());
    let config = Beside::config_like(&container, containerd, &id);
    let beside = Beside::new(containerd, &id, &config);
    let folder = beside.path().display().to_string();
    let mount = |kind: &str, source: &str, target: &str, options: &[&str]| {
        let mut mount = Mount::new();
        (mount.type_, mount.source, mount.target) = (kind.into(), source.into(), target.into());
        mount.options = options.iter().map(|option| (*option).to_owned()).collect();
        mount
    };
    let long = "x".repeat(100_000);
    for (mount, word) in [
        (mount("nosuchfs", "none", "", &[]), "nosuchfs"),
        (mount("", "", "", &[]), "cannot mount"),
        (mount("bind", "/no/such/folder", "", &["rbind"]), "/no/such/folder"),
        (mount("tmpfs", "tmpfs", "", &["size=nonsense"]), "tmpfs"),
        (mount("tmpfs", "tmpfs", "/no/such/target", &[]), "/no/such/target"),
        (mount("tmpfs", "tm\0pfs", "", &[]), "cannot mount"),
        (mount("overlay", "overlay", "", &[&format!("lowerdir={long}")]), "overlay"),
        (mount(&long, &long, "", &[]), "cannot mount"),
    ] {
        let create = CreateTaskRequest { rootfs: vec![mount], ..beside.request() };
        let (code, text) = shim.refused("Create", &create);
        assert!(matches!(code, Code::UNKNOWN | Code::INVALID_ARGUMENT), "{code:?} {text}");
        assert!(text.contains(word), "{word}: {text}");
        is_a_sentence(&text);
    }
    for (path, word) in [
        ("/no/such/pipe", "/no/such/pipe"),
        (&folder, "directory"),
        ("binary:///bin/true", "binary:///bin/true"),
        ("ftp://example.org/x", "ftp://example.org/x"),
        ("file:///no/such/folder/log", "/no/such/folder/log"),
        ("file://", "cannot open"),
        ("://", "://"),
        ("a\0b", "standard output"),
        (&format!("/{}", "x".repeat(5000)), "name too long"),
    ] {
        let create = CreateTaskRequest { stdout: path.to_owned(), ..beside.request() };
        let (code, text) = shim.refused("Create", &create);
        assert!(matches!(code, Code::UNKNOWN | Code::INVALID_ARGUMENT), "{code:?} {text}");
        let said = text.to_lowercase();
        assert!(said.contains(word) && said.contains("standard output"), "{word}: {text}");
        is_a_sentence(&text);
    }
    let theirs = container.bundle().display().to_string();
    for (bundle, word) in [
        ("", "absolute"),
        ("relative", "absolute"),
        ("/no/such/bundle", "/no/such/bundle/config.json"),
        ("/proc/self/mem", "/proc/self/mem/config.json"),
        (&format!("/{long}"), "config.json"),
        (&theirs, "another container"),
    ] {
        let create = CreateTaskRequest { bundle: bundle.to_owned(), ..beside.request() };
        let (code, text) = shim.refused("Create", &create);
        assert_eq!(code, Code::INVALID_ARGUMENT, "{text}");
        assert!(text.contains(word), "{word}: {text}");
        is_a_sentence(&text);
        lives_on(containerd, &container);
    }
    let left: Vec<_> = fs::read_dir(beside.path()).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 2, "config.json and rootfs: {left:?}");

    // A log file is one of containerd's kinds of output.
    let log = beside.path().join("log.txt");
    let uri = format!("file://{}", log.display());
    let create = CreateTaskRequest { stdout: uri.clone(), stderr: uri, ..beside.request() };
    shim.call::<Empty>("Create", &create).expect("a file is a good place");
    beside.start(&shim).expect("it starts");
    let wait = WaitRequest { id: id.clone(), ..Default::default() };
    shim.call::<containerd_shim_protos::api::WaitResponse>("Wait", &wait).expect("it ends");
    beside.delete(&shim).expect("it has ended");
    assert_eq!(fs::read_to_string(&log).expect("it was written"), "hello\n");
    lives_on(containerd, &container);
}

on_containerds!(
    bytes_that_are_no_message_are_an_invalid_argument,
    a_request_about_nobody_changes_nothing,
    unknown_methods_and_services_are_said,
    frames_that_lie_end_their_own_connection_at_the_most,
    a_create_whose_client_goes_away_is_carried_out,
    a_delete_ends_the_create_that_is_on_its_way,
    ids_that_are_none_are_refused,
    absurd_sizes_and_signals_are_refused,
    absurd_limits_are_refused,
    a_process_that_cannot_be_is_refused,
    options_of_the_wrong_type_are_refused,
    mounts_and_streams_that_cannot_be_are_refused,
);
