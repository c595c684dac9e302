//! A client of containerd's own gRPC API: for requests that `ctr` cannot send, or is too slow to
//! send.
//!
//! The root filesystem of its containers needs neither image nor snapshot: it is an overlay over
//! one folder.

pub mod api;
mod fifos;

pub use fifos::{Fifos, Paths};

use crate::grpc;
use api::{
    Any, CloseIo, Container, CreateContainer, CreateTask, CreateTaskAnswer, ExecProcess, GetAnswer,
    Kill, ListAnswer, Metric, Metrics, MetricsAnswer, Mount, Nothing, OfContainer, OfProcess,
    PidsAnswer, Process, Runtime, StartAnswer, WaitAnswer,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wherry_testing::{Containerd, DEADLINE, Image, runtime};

const TASKS: &str = "containerd.services.tasks.v1.Tasks";
const CONTAINERS: &str = "containerd.services.containers.v1.Containers";

/// A connection to a containerd, and the root filesystem of its containers. Clones share the
/// connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    namespace: String,
    runtime: String,
    spec: Value,
    folder: PathBuf,
}

/// The description of a container.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// The container's id.
    pub id: &'w str,
    /// The arguments of its first process.
    pub args: &'w [&'w str],
    /// Whether its first process has a terminal.
    pub terminal: bool,
    /// The group whose shim serves it; `None`: a separate shim.
    pub group: Option<&'w str>,
}

impl Client {
    /// Connects to a containerd. The files of `image` are the root filesystem of every container.
    /// Call it within a tokio runtime.
    pub fn new(containerd: &Containerd, image: &Image) -> Client {
        let folder = containerd.root().join(format!("client-{}", containerd.new_id()));
        image.unpack(&folder.join("lower"));
        let spec = serde_json::from_str(&containerd.ctr(&["oci", "spec"]).success());
        Client {
            channel: grpc::connect(&containerd.address()),
            namespace: containerd.namespace().to_owned(),
            runtime: runtime(),
            spec: spec.expect("ctr prints a configuration"),
            folder,
        }
    }

    /// The same client for containers of another runtime than the one under test.
    #[must_use]
    pub fn with_runtime(mut self, runtime: &str) -> Client {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// The same client for containers with at most this many processes and bytes of memory.
    #[must_use]
    pub fn with_limits(mut self, pids: u32, memory: u32) -> Client {
        let resources = &mut self.spec["linux"]["resources"];
        resources["pids"] = json!({"limit": pids});
        resources["memory"] = json!({"limit": memory});
        self
    }

    /// The same client with another connection, for another tokio runtime.
    #[must_use]
    pub fn reconnected(&self, containerd: &Containerd) -> Client {
        Client { channel: grpc::connect(&containerd.address()), ..self.clone() }
    }

    /// Creates pipes for a process.
    pub fn fifos(&self, id: &str, exec_id: &str) -> Fifos {
        Fifos::new(self.folder.join(format!("fifos-{id}-{exec_id}")))
    }

    /// Creates pipes that this side does not open.
    pub fn unopened_fifos(&self, id: &str, exec_id: &str) -> Fifos {
        Fifos::unopened(self.folder.join(format!("fifos-{id}-{exec_id}")))
    }

    async fn call<A: prost::Message + Default + 'static>(
        &self,
        method: &str,
        message: impl prost::Message + 'static,
    ) -> Result<A, Status> {
        let call = grpc::call(&self.channel, Some(&self.namespace), method, message);
        let answer = tokio::time::timeout(DEADLINE, call).await;
        answer.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("{method}: no answer within {DEADLINE:?}")))
        })
    }

    async fn task<A: prost::Message + Default + 'static>(
        &self,
        method: &str,
        message: impl prost::Message + 'static,
    ) -> Result<A, Status> {
        self.call(&format!("{TASKS}/{method}"), message).await
    }

    /// Registers a container without a task.
    ///
    /// # Errors
    /// containerd's error, as for all calls here.
    pub async fn make(&self, wanted: Wanted<'_>) -> Result<(), Status> {
        self.make_with(wanted, None).await
    }

    /// As [`Client::make`], with options for the runtime.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn make_with(&self, wanted: Wanted<'_>, options: Option<Any>) -> Result<(), Status> {
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(wanted.args);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        spec["process"]["terminal"] = json!(wanted.terminal);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{}", self.namespace, wanted.id));
        if let Some(group) = wanted.group {
            spec["annotations"] = json!({"io.containerd.runc.v2.group": group});
        }
        let container = Container {
            id: wanted.id.to_owned(),
            runtime: Some(Runtime { name: self.runtime.clone(), options }),
            spec: Some(any("Spec", &spec)),
        };
        let request = CreateContainer { container: Some(container) };
        self.call(&format!("{CONTAINERS}/Create"), request).await.map(|Nothing {}| ())
    }

    /// Removes a container, and the files that it has written.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn forget(&self, id: &str) -> Result<(), Status> {
        let result =
            self.call(&format!("{CONTAINERS}/Delete"), OfContainer { id: id.to_owned() }).await;
        let _ = fs::remove_dir_all(self.folder.join(id));
        result.map(|Nothing {}| ())
    }

    /// Creates a container's task, and returns its pid.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn create(&self, id: &str, terminal: bool, paths: &Paths) -> Result<u32, Status> {
        let folder = |name: &str| {
            let path = self.folder.join(id).join(name);
            fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            path.display().to_string()
        };
        let rootfs = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", self.folder.join("lower").display()),
                format!("upperdir={}", folder("upper")),
                format!("workdir={}", folder("work")),
            ],
        };
        let Paths { stdin, stdout, mut stderr } = paths.clone();
        if terminal {
            stderr.clear();
        }
        let request =
            CreateTask { id: id.to_owned(), rootfs: vec![rootfs], stdin, stdout, stderr, terminal };
        self.task("Create", request).await.map(|answer: CreateTaskAnswer| answer.pid)
    }

    /// Starts a process; `exec_id` is empty for a container's first one, here and below.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<u32, Status> {
        self.task("Start", process(id, exec_id)).await.map(|answer: StartAnswer| answer.pid)
    }

    /// Adds a process to a container.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn exec(
        &self,
        id: &str,
        exec_id: &str,
        args: &[&str],
        paths: &Paths,
    ) -> Result<(), Status> {
        let mut spec = self.spec["process"].clone();
        spec["args"] = json!(args);
        spec["env"] = json!(["PATH=/bin"]);
        let Paths { stdin, stdout, stderr } = paths.clone();
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let spec = Some(any("Process", &spec));
        let request = ExecProcess { id, stdin, stdout, stderr, terminal: false, spec, exec_id };
        self.task("Exec", request).await.map(|Nothing {}| ())
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> Result<(), Status> {
        let request = Kill { id: id.to_owned(), exec_id: exec_id.to_owned(), signal };
        self.task("Kill", request).await.map(|Nothing {}| ())
    }

    /// Closes the standard input of a process (CloseIO).
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn close_input(&self, id: &str, exec_id: &str) -> Result<(), Status> {
        let request = CloseIo { id: id.to_owned(), exec_id: exec_id.to_owned(), stdin: true };
        self.task("CloseIO", request).await.map(|Nothing {}| ())
    }

    /// Waits for the end of a process, and returns its exit status. The caller sets the deadline.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn wait(&self, id: &str, exec_id: &str, limit: Duration) -> Result<u32, Status> {
        let method = format!("{TASKS}/Wait");
        let call = grpc::call(&self.channel, Some(&self.namespace), &method, process(id, exec_id));
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map(|answer: WaitAnswer| answer.exit_status),
            Err(_) => Err(Status::deadline_exceeded(format!("no end within {limit:?}"))),
        }
    }

    /// Pauses or resumes a container.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn freeze(&self, id: &str, frozen: bool) -> Result<(), Status> {
        let method = if frozen { "Pause" } else { "Resume" };
        self.task(method, OfContainer { id: id.to_owned() }).await.map(|Nothing {}| ())
    }

    /// Deletes a task, or, with an `exec_id`, an added process.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<(), Status> {
        let answer: Result<Nothing, Status> = if exec_id.is_empty() {
            self.task("Delete", OfContainer { id: id.to_owned() }).await
        } else {
            self.task("DeleteProcess", process(id, exec_id)).await
        };
        answer.map(drop)
    }

    /// The state of a process.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn get(&self, id: &str, exec_id: &str) -> Result<Process, Status> {
        let answer: GetAnswer = self.task("Get", process(id, exec_id)).await?;
        answer.process.ok_or_else(|| Status::internal("no process in the answer"))
    }

    /// The pids of the processes of a container.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn pids(&self, id: &str) -> Result<Vec<u32>, Status> {
        let answer: PidsAnswer = self.task("ListPids", OfContainer { id: id.to_owned() }).await?;
        Ok(answer.processes.into_iter().map(|process| process.pid).collect())
    }

    /// The metrics of a container.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn metrics(&self, id: &str) -> Result<Metric, Status> {
        let request = Metrics { filters: vec![format!("id=={id}")] };
        let answer: MetricsAnswer = self.task("Metrics", request).await?;
        answer.metrics.into_iter().next().ok_or_else(|| Status::not_found("no metrics"))
    }

    /// The ids of all tasks.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn tasks(&self) -> Result<Vec<String>, Status> {
        let answer: ListAnswer = self.task("List", Nothing {}).await?;
        Ok(answer.tasks.into_iter().map(|task| task.id).collect())
    }
}

/// Whether the error is NOT_FOUND.
pub fn is_gone(status: &Status) -> bool {
    status.code() == Code::NotFound
}

fn process(id: &str, exec_id: &str) -> OfProcess {
    OfProcess { id: id.to_owned(), exec_id: exec_id.to_owned() }
}

fn any(kind: &str, value: &Value) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{kind}");
    Any { type_url, value: value.to_string().into_bytes() }
}
