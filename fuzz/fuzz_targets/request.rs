//! A client that sends any bytes to the Task API: a sequence of methods with their payloads,
//! against the service itself. In place of an engine host a thread answers that says that there is
//! a process: none is forked, nothing is mounted.
//!
//! Input: for each request a byte for the method, two for the payload's length, and the payload.
#![no_main]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest};
use containerd_shim_protos::protobuf::Message;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use ttrpc::asynchronous::{Service as Methods, TtrpcContext};
use ttrpc::{Code, Request};
use wherry_container::{Event, EventSink, Runtime};
use wherry_image::Cache;
use wherry_protocol::compile::Bounds;
use wherry_protocol::{Channel, HostReply, HostRequest};
use wherry_supervisor::launch::Host;
use wherry_supervisor::{Engine, Engines, Program, Supervisor};
use wherry_sys::reaper::Reaper;
use wherry_task::{Connections, Lifetime, Service, services};

const METHODS: [&str; 17] = [
    "Create",
    "Start",
    "State",
    "Wait",
    "Kill",
    "Delete",
    "Exec",
    "Pids",
    "Stats",
    "Connect",
    "CloseIO",
    "ResizePty",
    "Pause",
    "Resume",
    "Update",
    "Checkpoint",
    "Shutdown",
];
/// A pid above the kernel's maximum: no process receives a signal.
const NO_PROCESS: i32 = i32::MAX - 1;
/// A request without an answer after this time waits for an exit that does not come.
const PATIENCE: Duration = Duration::from_millis(20);

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("there is room");
    runtime.block_on(async {
        let world = World::new();
        let mut rest = bytes;
        while let [method, high, low, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
            let (payload, next) = after.split_at(length);
            let method = METHODS[usize::from(*method) % METHODS.len()];
            world.call(method, payload).await;
            rest = next;
        }
    });
    runtime.shutdown_timeout(PATIENCE);
});

struct World {
    supervisor: Arc<Supervisor>,
    methods: Methods,
}

struct Silence;

impl EventSink for Silence {
    fn send(&self, _: Event) {}
}

impl World {
    fn new() -> World {
        let cache = Cache::new(folder().join("cache"), "missing", 0);
        let engine = Engine::new("missing", program(), cache);
        let supervisor = Arc::new(Supervisor {
            engines: Engines::only(engine),
            bounds: Bounds { memory: 1 << 20, seconds: 1, module: 1 << 20, code: 1 << 20 },
            reaper: Reaper::default(),
        });
        let runtime =
            Arc::new(Runtime { supervisor: Arc::clone(&supervisor), events: Arc::new(Silence) });
        let mut services: HashMap<String, Methods> =
            services(&Service::new(runtime, Connections::default(), Lifetime::Group));
        let methods = services.remove("containerd.task.v2.Task").expect("it is served");
        World { supervisor, methods }
    }

    async fn call(&self, method: &str, payload: &[u8]) {
        let payload = match method {
            "Create" => create(payload),
            "Exec" => exec(payload),
            _ => None,
        }
        .unwrap_or_else(|| payload.to_vec());
        if matches!(method, "Create" | "Start") {
            self.supervisor.spare().put(host());
        }
        let mut request = Request::new();
        request.service = "containerd.task.v2.Task".to_owned();
        request.method = method.to_owned();
        request.payload = payload;
        let handler = &self.methods.methods[method];
        let answer =
            tokio::time::timeout(PATIENCE, handler.handler(TtrpcContext::default(), request)).await;
        if let Ok(answer) = answer {
            let answer = answer.expect("the answer contains the error");
            let (code, text) = (answer.status().code(), answer.status().message());
            // A panic is reported as INTERNAL.
            assert_ne!(code, Code::INTERNAL, "{method}: {text}");
            assert!(
                code == Code::OK || (!text.is_empty() && text.len() < 2000),
                "{method}: {text}"
            );
        }
    }
}

/// An engine host that forks no process.
fn host() -> Host {
    let (ours, theirs) = Channel::pair().expect("there is room");
    std::thread::spawn(move || {
        if let Ok(Some(packet)) = theirs.receive::<HostRequest>() {
            // The other end may be closed.
            let _ = theirs.send(&HostReply::Forked { pid: NO_PROCESS }, &[]);
            drop(packet);
        }
    });
    Host::over(ours)
}

fn folder() -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = TempDir::new_in("/dev/shm").expect("there is room");
        let config =
            include_str!("../seeds/config/ctr.json").replace("/fuzz/", "/wherry-fuzz-missing/");
        std::fs::write(folder.path().join("config.json"), config).expect("there is room");
        folder
    });
    folder.path().to_owned()
}

/// A host that ends at once, for a request that finds no other.
fn program() -> Program {
    Program::new("/bin/false".into())
}

/// The bundle is ours, and so are all files: the fuzzer runs as root.
fn create(payload: &[u8]) -> Option<Vec<u8>> {
    let mut request = CreateTaskRequest::parse_from_bytes(payload).ok()?;
    if request.bundle.starts_with('/') {
        request.bundle = folder().display().to_string();
    }
    for stream in [&mut request.stdin, &mut request.stdout, &mut request.stderr] {
        *stream = tame(stream);
    }
    request.write_to_bytes().ok()
}

fn exec(payload: &[u8]) -> Option<Vec<u8>> {
    let mut request = ExecProcessRequest::parse_from_bytes(payload).ok()?;
    for stream in [&mut request.stdin, &mut request.stdout, &mut request.stderr] {
        *stream = tame(stream);
    }
    request.write_to_bytes().ok()
}

fn tame(stream: &str) -> String {
    match stream.as_bytes() {
        [] => String::new(),
        [b'f', ..] => format!("file://{}/log", folder().display()),
        [b'/', ..] => "/dev/null".to_owned(),
        [first, ..] => format!("{}://{first}", if first % 2 == 0 { "binary" } else { "" }),
    }
}
