//! A containerd with the CRI plugin, and a client of CRI in place of the kubelet.
//!
//! The pods use the host's network, so that no network plugin is needed; the pause container is
//! native, like that of Kubernetes.

pub mod api;

use crate::grpc;
use api::{
    CONTAINER, ContainerConfig, ContainerMetadata, ContainerSecurity, ContainerStatus,
    ContainerStatusAnswer, CreateContainer, Id, ImageName, ImageStatus, ImageStatusAnswer,
    LinuxContainer, LinuxPod, NODE, Namespaces, Nothing, POD, PodConfig, PodMetadata, PodSecurity,
    PodStatusAnswer, Resources, RunPod, StatusOf, Stop,
};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Handler, Image, Process, busybox, cgroup_parent,
    engine, processes, wait_for, wait_until,
};

/// The containerd namespace of all pods.
pub const NAMESPACE: &str = "k8s.io";

/// A containerd with the CRI plugin, and a connection to it.
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
    containerd: Containerd,
}

/// A pod, and its containers. [`Pod::remove`] removes it.
pub struct Pod<'c> {
    cri: &'c Cri,
    id: String,
    config: PodConfig,
    namespaces: Namespaces,
    containers: Vec<String>,
}

/// One container of a pod: an image and the settings of the pod's author.
#[derive(Clone)]
pub struct Member<'i> {
    name: &'i str,
    image: &'i Image,
    args: Vec<String>,
    memory: i64,
}

impl<'i> Member<'i> {
    /// A container with this name and image.
    pub fn new(name: &'i str, image: &'i Image) -> Member<'i> {
        Member { name, image, args: Vec::new(), memory: 0 }
    }

    /// Arguments, in place of the image's default ones.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Member<'i> {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: i64) -> Member<'i> {
        self.memory = bytes;
        self
    }
}

impl Cri {
    /// Starts a containerd for a single test.
    pub fn start(version: ContainerdVersion) -> Cri {
        Cri::start_with(version, &[])
    }

    /// Like [`Cri::start`], with more runtime handlers.
    pub fn start_with(version: ContainerdVersion, handlers: &[Handler]) -> Cri {
        let pause = busybox().entrypoint(&["/bin/sleep"]).cmd(&["1000000"]);
        let containerd = Containerd::start_for_kubernetes(version, &pause.pack(), handlers);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let channel = {
            let _context = runtime.enter();
            grpc::connect(&containerd.address())
        };
        let cri = Cri { runtime, channel, containerd };
        cri.wait_ready();
        cri.load(&pause);
        cri
    }

    /// The instance that the tests of this process share.
    pub fn shared(version: ContainerdVersion) -> &'static Cri {
        static SHARED: [OnceLock<Cri>; 4] = [const { OnceLock::new() }; 4];
        SHARED[version as usize].get_or_init(|| Cri::start(version))
    }

    /// The containerd.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Kills containerd with SIGKILL, and restarts it.
    pub fn restart(&self) {
        self.containerd.kill9();
        self.containerd.start_again();
        self.wait_ready();
    }

    /// Waits until it answers: after a restart the connection is made again.
    pub fn wait_ready(&self) {
        wait_until("CRI answers", DEADLINE, || {
            self.call::<Nothing>("RuntimeService/Version", Nothing {}).is_ok()
        });
    }

    /// Calls a method; an error is returned as its text.
    fn call<A: prost::Message + Default + 'static>(
        &self,
        method: &str,
        request: impl prost::Message + 'static,
    ) -> Result<A, String> {
        let method = format!("runtime.v1.{method}");
        let answer = self.runtime.block_on(grpc::call(&self.channel, None, &method, request));
        answer.map_err(|status| status.message().to_owned())
    }

    /// Imports an image, and returns its name.
    pub fn load(&self, image: &Image) -> String {
        let packed = image.pack();
        let name = ImageName { image: packed.reference.clone() };
        let known = || {
            let request = ImageStatus { image: Some(name.clone()) };
            let answer = self.call::<ImageStatusAnswer>("ImageService/ImageStatus", request);
            answer.is_ok_and(|answer| answer.image.is_some())
        };
        if !known() {
            self.containerd.import(&packed, NAMESPACE);
            // The plugin learns of the image through an event.
            wait_until("CRI knows the image", DEADLINE, known);
        }
        packed.reference
    }

    /// Runs a pod whose containers have separate pid namespaces.
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with(name, CONTAINER)
    }

    /// Runs a pod whose containers share one pid namespace.
    pub fn pod_of_shared_processes(&self, name: &str) -> Pod<'_> {
        self.pod_with(name, POD)
    }

    /// Runs a pod under a handler of this name; the empty name is the default one.
    pub fn pod_under(&self, name: &str, handler: &str) -> Pod<'_> {
        self.pod_of(name, CONTAINER, handler)
            .unwrap_or_else(|e| panic!("the pod {name} does not run: {e}"))
    }

    /// The error that the kubelet would show for a pod under this handler.
    pub fn refused_pod(&self, name: &str, handler: &str) -> String {
        match self.pod_of(name, CONTAINER, handler) {
            Ok(pod) => panic!("the pod {} runs", pod.id),
            Err(error) => error,
        }
    }

    fn pod_with(&self, name: &str, pid: i32) -> Pod<'_> {
        self.pod_of(name, pid, &engine())
            .unwrap_or_else(|e| panic!("the pod {name} does not run: {e}"))
    }

    fn pod_of(&self, name: &str, pid: i32, handler: &str) -> Result<Pod<'_>, String> {
        let namespaces = Namespaces { network: NODE, pid, ipc: POD };
        let logs = self.containerd.root().join("logs").join(name);
        fs::create_dir_all(&logs).expect("the daemon's folder is writable");
        let config = PodConfig {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "default".to_owned(),
            }),
            hostname: String::new(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPod {
                cgroup_parent: cgroup_parent(self.containerd.namespace()),
                security: Some(PodSecurity { namespaces: Some(namespaces) }),
            }),
        };
        let request = RunPod { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.call::<Id>("RuntimeService/RunPodSandbox", request)?.id;
        self.containerd.note_shim(NAMESPACE, &id);
        Ok(Pod { cri: self, id, config, namespaces, containers: Vec::new() })
    }
}

impl Pod<'_> {
    /// Creates a container, and returns its id.
    pub fn create(&mut self, member: &Member<'_>) -> String {
        let image = ImageName { image: self.cri.load(member.image) };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: member.name.to_owned() }),
            image: Some(image),
            args: member.args.clone(),
            log_path: format!("{}.log", member.name),
            linux: Some(LinuxContainer {
                resources: Some(Resources { memory_limit_in_bytes: member.memory }),
                security: Some(ContainerSecurity { namespaces: Some(self.namespaces) }),
            }),
        };
        let request = CreateContainer {
            pod: self.id.clone(),
            config: Some(config),
            pod_config: Some(self.config.clone()),
        };
        let answer = self.cri.call::<Id>("RuntimeService/CreateContainer", request);
        let id = answer.unwrap_or_else(|e| panic!("{} cannot be created: {e}", member.name)).id;
        self.containers.push(id.clone());
        id
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// The text that the kubelet would show.
    pub fn start(&self, id: &str) -> Result<(), String> {
        let request = Id { id: id.to_owned() };
        self.cri.call::<Nothing>("RuntimeService/StartContainer", request).map(drop)
    }

    /// Creates and starts a container, and returns its id.
    pub fn run(&mut self, member: &Member<'_>) -> String {
        let id = self.create(member);
        self.start(&id).unwrap_or_else(|e| panic!("{} cannot be started: {e}", member.name));
        id
    }

    /// Stops a container, without a time limit.
    pub fn stop(&self, id: &str) {
        self.stop_within(id, 60);
    }

    /// Stops a container; it is killed after this time.
    fn stop_within(&self, id: &str, timeout_seconds: i64) {
        let request = Stop { id: id.to_owned(), timeout_seconds };
        let answer = self.cri.call::<Nothing>("RuntimeService/StopContainer", request);
        answer.unwrap_or_else(|e| panic!("{id} cannot be stopped: {e}"));
    }

    /// The status of a container, and its pid.
    pub fn status(&self, id: &str) -> (ContainerStatus, i32) {
        let request = StatusOf { id: id.to_owned(), verbose: true };
        let answer =
            self.cri.call::<ContainerStatusAnswer>("RuntimeService/ContainerStatus", request);
        let answer = answer.unwrap_or_else(|e| panic!("no status of {id}: {e}"));
        (answer.status.expect("a status"), pid_in(answer.info.get("info")))
    }

    /// Waits for the end of a container, and returns its status.
    pub fn wait(&self, id: &str) -> ContainerStatus {
        wait_for(&format!("the end of {id}"), DEADLINE, || {
            let (status, _) = self.status(id);
            (status.state == api::EXITED).then_some(status)
        })
    }

    /// The state of the pod, and the pid of its pause container.
    pub fn state(&self) -> (i32, i32) {
        let request = StatusOf { id: self.id.clone(), verbose: true };
        let answer = self.cri.call::<PodStatusAnswer>("RuntimeService/PodSandboxStatus", request);
        let answer = answer.unwrap_or_else(|e| panic!("no status of the pod: {e}"));
        (answer.status.expect("a status").state, pid_in(answer.info.get("info")))
    }

    /// The shim processes of the pod and its containers.
    pub fn shims(&self) -> Vec<Process> {
        let is_ours = |process: &Process| {
            let mut ids = self.containers.iter().chain([&self.id]);
            process.program().starts_with("containerd-shim-")
                && ids.any(|id| process.command.contains(id))
        };
        processes().into_iter().filter(is_ours).collect()
    }

    /// The log of a container, without the time in front of each line: `stdout F text`.
    pub fn log(&self, name: &str) -> String {
        let path = PathBuf::from(&self.config.log_directory).join(format!("{name}.log"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let rest = text.lines().filter_map(|line| line.split_once(' ').map(|(_, rest)| rest));
        rest.flat_map(|line| [line, "\n"]).collect()
    }

    /// Waits until the log of a container has this content.
    pub fn wait_for_log(&self, name: &str, whole: &str) {
        wait_until(
            &format!("'{whole}' in the log of {name}: {}", self.log(name)),
            DEADLINE,
            || self.log(name) == whole,
        );
    }

    /// Stops and removes the pod with all its containers, as the kubelet does.
    pub fn remove(self) {
        let id = |id: &String| Id { id: id.clone() };
        let call = |method: &str, request: Id| {
            let answer = self.cri.call::<Nothing>(&format!("RuntimeService/{method}"), request);
            answer.unwrap_or_else(|e| panic!("{method}: {e}"));
        };
        for container in &self.containers {
            // A native first process ignores SIGTERM: it is killed at once.
            self.stop_within(container, 0);
            // containerd may learn of the end a moment later; the kubelet retries too.
            wait_until("a stopped container can be removed", DEADLINE, || {
                self.cri.call::<Nothing>("RuntimeService/RemoveContainer", id(container)).is_ok()
            });
        }
        call("StopPodSandbox", id(&self.id));
        call("RemovePodSandbox", id(&self.id));
    }
}

fn pid_in(info: Option<&String>) -> i32 {
    let json = info.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let pid = json.and_then(|json| json["pid"].as_i64()).unwrap_or_default();
    i32::try_from(pid).expect("a pid")
}
