//! A containerd with the CRI plugin, and a client of CRI in place of the kubelet.
//!
//! The pods use the host's network, unless the shim makes them; the pause container is native, like
//! that of Kubernetes.

pub mod api;

use crate::grpc;
use api::{
    Auth, CONTAINER, ContainerConfig, ContainerMetadata, ContainerSecurity, ContainerStatus,
    ContainerStatusAnswer, CreateContainer, ExecSync, ExecSyncAnswer, Id, ImageName, ImageStatus,
    ImageStatusAnswer, LinuxContainer, LinuxPod, NODE, Namespaces, Nothing, POD, PodConfig,
    PodMetadata, PodSecurity, PodStatus, PodStatusAnswer, PullImage, Resources, RunPod,
    StatsAnswer, StatusOf, Stop,
};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Handler, Image, Process, SHIM_SANDBOXER, busybox,
    cgroup_parent, engine, managers, processes, shared, wait_for, wait_until,
};

/// The containerd namespace of all pods.
pub const NAMESPACE: &str = "k8s.io";

/// A containerd with the CRI plugin, and a connection to it.
pub struct Cri {
    /// The runtime handler of its pods.
    handler: String,
    /// Whether they have the host's network.
    network: i32,
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
    image: Source<'i>,
    args: Vec<String>,
    memory: i64,
    annotations: HashMap<String, String>,
}

/// Where the image of a container comes from.
#[derive(Clone)]
enum Source<'i> {
    /// It is imported first.
    Built(&'i Image),
    /// It is in the store, under this name.
    Stored(&'i str),
}

impl<'i> Member<'i> {
    /// A container with this name and image.
    pub fn new(name: &'i str, image: &'i Image) -> Member<'i> {
        Member::of(name, Source::Built(image))
    }

    /// A container of an image that is in containerd's store.
    pub fn stored(name: &'i str, reference: &'i str) -> Member<'i> {
        Member::of(name, Source::Stored(reference))
    }

    fn of(name: &'i str, image: Source<'i>) -> Member<'i> {
        Member { name, image, args: Vec::new(), memory: 0, annotations: HashMap::new() }
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Member<'i> {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
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
        Cri::start_under(version, engine(), NODE, handlers)
    }

    /// Like [`Cri::start`]; the shim makes the pods, which have separate networks: containerd 2.0
    /// to 2.2 crashes at one with the host's.
    pub fn start_with_shim_sandboxer(version: ContainerdVersion) -> Cri {
        Cri::start_under(version, engine() + SHIM_SANDBOXER, POD, &[])
    }

    fn start_under(
        version: ContainerdVersion,
        handler: String,
        network: i32,
        handlers: &[Handler],
    ) -> Cri {
        let pause = busybox().entrypoint(&["/bin/sleep"]).cmd(&["1000000"]);
        let containerd = Containerd::start_for_kubernetes(version, &pause.pack(), handlers);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let channel = {
            let _context = runtime.enter();
            grpc::connect(&containerd.address())
        };
        let cri = Cri { handler, network, runtime, channel, containerd };
        cri.wait_ready();
        cri.load(&pause);
        cri
    }

    /// The instance that the tests of this process share.
    pub fn shared(version: ContainerdVersion) -> &'static Cri {
        static SHARED: [OnceLock<Cri>; 4] = [const { OnceLock::new() }; 4];
        SHARED[version as usize].get_or_init(|| Cri::start(version))
    }

    /// Like [`Cri::shared`]; the shim makes the pods.
    pub fn shared_with_shim_sandboxer(version: ContainerdVersion) -> &'static Cri {
        static SHARED: [OnceLock<Cri>; 4] = [const { OnceLock::new() }; 4];
        SHARED[version as usize].get_or_init(|| Cri::start_with_shim_sandboxer(version))
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

    /// Pulls an image with these credentials, as the kubelet does with a pod's `imagePullSecrets`.
    ///
    /// # Errors
    /// The text that the kubelet would show.
    pub fn pull(&self, image: &str, username: &str, password: &str) -> Result<(), String> {
        let auth = Auth { username: username.to_owned(), password: password.to_owned() };
        let image = Some(ImageName { image: image.to_owned() });
        let request = PullImage { image, auth: Some(auth) };
        self.call::<Nothing>("ImageService/PullImage", request).map(drop)
    }

    /// Imports an image, and returns its name.
    pub fn load(&self, image: &Image) -> String {
        let packed = image.pack();
        if !self.knows(&packed.reference) {
            self.containerd.import(&packed, NAMESPACE);
            self.wait_known(&packed.reference);
        }
        packed.reference
    }

    fn knows(&self, reference: &str) -> bool {
        let request = ImageStatus { image: Some(ImageName { image: reference.to_owned() }) };
        let answer = self.call::<ImageStatusAnswer>("ImageService/ImageStatus", request);
        answer.is_ok_and(|answer| answer.image.is_some())
    }

    /// Waits until the plugin has learned of the image, through an event.
    fn wait_known(&self, reference: &str) {
        wait_until("CRI knows the image", DEADLINE, || self.knows(reference));
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
        self.run(self.config(name, CONTAINER), handler)
            .unwrap_or_else(|e| panic!("the pod {name} does not run: {e}"))
    }

    /// Runs a pod in the node's network namespace, for which containerd calls no network plug-in.
    pub fn pod_in_nodes_network(&self, name: &str, handler: &str) -> Pod<'_> {
        let mut config = self.config(name, CONTAINER);
        let security = config.linux.as_mut().and_then(|linux| linux.security.as_mut());
        let namespaces = security.and_then(|security| security.namespaces.as_mut());
        namespaces.expect("they are set").network = NODE;
        self.run(config, handler).unwrap_or_else(|e| panic!("the pod {name} does not run: {e}"))
    }

    /// The error that the kubelet would show for a pod under this handler.
    pub fn refused_pod(&self, name: &str, handler: &str) -> String {
        match self.run(self.config(name, CONTAINER), handler) {
            Ok(pod) => panic!("the pod {} runs", pod.id),
            Err(error) => error,
        }
    }

    fn pod_with(&self, name: &str, pid: i32) -> Pod<'_> {
        self.pod_of(self.config(name, pid))
            .unwrap_or_else(|e| panic!("the pod {name} does not run: {e}"))
    }

    /// Runs a pod of this configuration.
    ///
    /// # Errors
    /// The text that the kubelet would show.
    pub fn pod_of(&self, config: PodConfig) -> Result<Pod<'_>, String> {
        self.run(config, &self.handler)
    }

    /// Like [`Cri::pod_of`], under a handler of this name.
    ///
    /// # Errors
    /// The text that the kubelet would show.
    pub fn pod_of_under(&self, config: PodConfig, handler: &str) -> Result<Pod<'_>, String> {
        self.run(config, handler)
    }

    /// The configuration of a pod. Its uid is unique, as in a cluster: pods of several tests may
    /// have the same name.
    pub fn config(&self, name: &str, pid: i32) -> PodConfig {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let uid = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let namespaces = Namespaces { network: self.network, pid, ipc: POD };
        let logs = self.containerd.root().join("logs").join(&uid);
        fs::create_dir_all(&logs).expect("the daemon's folder is writable");
        PodConfig {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid,
                namespace: "default".to_owned(),
            }),
            hostname: String::new(),
            log_directory: logs.display().to_string(),
            dns: None,
            annotations: HashMap::new(),
            linux: Some(LinuxPod {
                cgroup_parent: cgroup_parent(self.containerd.namespace()),
                security: Some(PodSecurity { namespaces: Some(namespaces) }),
                sysctls: HashMap::new(),
            }),
        }
    }

    fn run(&self, config: PodConfig, handler: &str) -> Result<Pod<'_>, String> {
        let request = RunPod { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.call::<Id>("RuntimeService/RunPodSandbox", request)?.id;
        self.containerd.note_shim(NAMESPACE, &id);
        let security = config.linux.as_ref().and_then(|linux| linux.security.clone());
        let namespaces = security.and_then(|security| security.namespaces).expect("they are set");
        Ok(Pod { cri: self, id, config, namespaces, containers: Vec::new() })
    }
}

impl Pod<'_> {
    /// Creates a container, and returns its id.
    pub fn create(&mut self, member: &Member<'_>) -> String {
        let image = match member.image {
            Source::Built(image) => self.cri.load(image),
            Source::Stored(reference) => {
                self.cri.wait_known(reference);
                reference.to_owned()
            }
        };
        let image = ImageName { image };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: member.name.to_owned() }),
            image: Some(image),
            args: member.args.clone(),
            annotations: member.annotations.clone(),
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

    /// Runs a command in a container, and returns its output and its exit code.
    pub fn exec(&self, id: &str, command: &[&str]) -> (String, i32) {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSync { id: id.to_owned(), command };
        let answer = self.cri.call::<ExecSyncAnswer>("RuntimeService/ExecSync", request);
        let answer = answer.unwrap_or_else(|e| panic!("no exec in {id}: {e}"));
        (String::from_utf8_lossy(&answer.stdout).into_owned(), answer.exit_code)
    }

    /// The memory that a container uses, bytes.
    pub fn memory_of(&self, id: &str) -> u64 {
        let request = Id { id: id.to_owned() };
        let answer = self.cri.call::<StatsAnswer>("RuntimeService/ContainerStats", request);
        let stats = answer.unwrap_or_else(|e| panic!("no statistics of {id}: {e}")).stats;
        let memory = stats.and_then(|stats| stats.memory).expect("the memory is known");
        memory.working_set.map_or(0, |number| number.value)
    }

    /// Stops the pod; its containers that run are killed.
    pub fn stop_pod(&self) {
        let request = Id { id: self.id.clone() };
        let answer = self.cri.call::<Nothing>("RuntimeService/StopPodSandbox", request);
        answer.unwrap_or_else(|e| panic!("the pod cannot be stopped: {e}"));
    }

    /// The pid whose namespaces the containers join: that of the pause container, or of the
    /// shim's replacement, a thread or an init process, which containerd 2.1 does not report.
    pub fn holder(&self) -> i32 {
        let reported = self.state().1;
        if reported != 0 {
            return reported;
        }
        let shim = self.shims().first().expect("the pod has a shim").pid;
        let own = |pid: &i32| self.has_network_of(*pid);
        let threads = fs::read_dir(format!("/proc/{shim}/task")).expect("it runs").flatten();
        let is_holder = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "pod\n")
        };
        let threads = threads.filter(is_holder);
        let mut threads =
            threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).filter(own);
        threads.next().unwrap_or_else(|| {
            let children = children_of(shim).into_iter();
            let inits = children.filter(|child| child.command.starts_with("wherry-pod"));
            inits.map(|init| init.pid).find(own).expect("the pod has an init process")
        })
    }

    /// Whether a process or thread is in the network namespace of the pod. A manager has many pods.
    fn has_network_of(&self, pid: i32) -> bool {
        let address = self.status_of_pod().0.network.map(|network| network.ip).unwrap_or_default();
        let addresses = fs::read_to_string(format!("/proc/{pid}/net/fib_trie"));
        addresses.is_ok_and(|text| text.contains(&format!("-- {address}\n")))
    }

    /// The state of the pod, and the pid of its pause container, or of its replacement.
    pub fn state(&self) -> (i32, i32) {
        let (status, info) = self.status_of_pod();
        (status.state, pid_in(info.get("info")))
    }

    fn status_of_pod(&self) -> (PodStatus, HashMap<String, String>) {
        let request = StatusOf { id: self.id.clone(), verbose: true };
        let answer = self.cri.call::<PodStatusAnswer>("RuntimeService/PodSandboxStatus", request);
        let answer = answer.unwrap_or_else(|e| panic!("no status of the pod: {e}"));
        (answer.status.expect("a status"), answer.info)
    }

    /// The shim processes of the pod and its containers.
    pub fn shims(&self) -> Vec<Process> {
        if shared() {
            return managers(&self.cri.containerd.address());
        }
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

/// The processes whose parent is `pid`.
pub fn children_of(pid: i32) -> Vec<Process> {
    let is_child = |process: &Process| {
        fs::read_to_string(format!("/proc/{}/status", process.pid))
            .is_ok_and(|status| status.contains(&format!("PPid:\t{pid}\n")))
    };
    processes().into_iter().filter(is_child).collect()
}

fn pid_in(info: Option<&String>) -> i32 {
    let json = info.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let pid = json.and_then(|json| json["pid"].as_i64()).unwrap_or_default();
    i32::try_from(pid).expect("a pid")
}
