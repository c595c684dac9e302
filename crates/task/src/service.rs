//! The Task service: dispatches all 17 methods, each explicitly. The generated default answers
//! NOT_FOUND, which would make a client discard the task.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::{Task, create_task};
use tokio::sync::watch;
use ttrpc::asynchronous::{Service as Methods, TtrpcContext};
use wherry_bundle::{Bundle, SANDBOX_ID};
use wherry_container::{Container, Exec, Pod, Runtime};

use crate::census::Census;
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::lifecycle::{self, Lifetime};
use crate::method::{InFlight, uncancellable};
use crate::registry::Registry;
use crate::rpc;

/// The state that all methods share. Clones share it too.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    runtime: Arc<Runtime>,
    registry: Registry,
    connections: Connections,
    in_flight: InFlight,
    lifetime: Lifetime,
    /// Whether [`Service::end_without_containers`] was called.
    asked_to_end: watch::Sender<bool>,
}

impl Service {
    /// Creates a service without containers, whose clients are counted in `connections`.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>, connections: Connections, lifetime: Lifetime) -> Service {
        Service::with_registry(runtime, connections, lifetime, Registry::new(), false)
    }

    /// Creates the service of a registry that came along in a handover.
    pub(crate) fn with_registry(
        runtime: Arc<Runtime>,
        connections: Connections,
        lifetime: Lifetime,
        registry: Registry,
        asked_to_end: bool,
    ) -> Service {
        Service(Arc::new(Inner {
            runtime,
            registry,
            connections,
            in_flight: InFlight::new(),
            lifetime,
            asked_to_end: watch::Sender::new(asked_to_end),
        }))
    }

    /// Waits until the service accepts no more containers and has none: after Shutdown, or after an
    /// idle timeout. A manager calls `retire` before, which removes the daemon's address; if that
    /// returns false, a client has just got the address, and the service continues.
    pub async fn ended(&self, retire: impl Fn() -> bool) {
        let Inner { registry, connections, lifetime, asked_to_end, .. } = &*self.0;
        tokio::select! {
            () = registry.closed() => {}
            () = lifecycle::idle(registry, connections, *lifetime, &retire) => {
                log::info!("the shim ends: it has had no container for some time");
            }
            () = lifecycle::unused(registry, connections, asked_to_end, &retire) => {
                log::info!("the shim ends: it was asked to, and has no container");
            }
        }
    }

    /// Ends the service when it has no container, unless it is that of a manager: containerd asks
    /// for it after each Delete.
    pub(crate) fn request_shutdown(&self) {
        if self.0.lifetime == Lifetime::Group {
            self.0.registry.request_shutdown();
        }
    }

    /// Ends the service as soon as it has no container. Until then it serves as before.
    pub fn end_without_containers(&self) {
        self.0.asked_to_end.send_replace(true);
    }

    /// Whether the service ends as soon as it has no container.
    pub(crate) fn is_asked_to_end(&self) -> bool {
        *self.0.asked_to_end.borrow()
    }

    /// Counts the containers by state.
    #[must_use]
    pub fn census(&self) -> Census {
        self.0.registry.census()
    }

    /// Waits until no request is being answered, apart from Wait.
    pub async fn quiet(&self) {
        self.0.in_flight.none().await;
    }

    /// Waits for the next request, apart from Wait.
    pub async fn busy(&self) {
        self.0.in_flight.next().await;
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.0.in_flight
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.0.runtime)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Finds the container that a request names.
    pub(crate) fn container(&self, id: &str) -> Result<Container> {
        self.0.registry.get(id).ok_or_else(|| Error::ContainerNotFound(id.to_owned()))
    }

    /// Finds the pod that a request names.
    pub(crate) fn pod(&self, id: &str) -> Result<Pod> {
        self.0.registry.pod(id).ok_or_else(|| Error::PodNotFound(id.to_owned()))
    }

    /// Returns the pod of the container in a bundle, if this daemon has made it. The daemon of a
    /// group serves one pod; with a manager the container's configuration names it.
    pub(crate) fn pod_of(&self, bundle: &Bundle) -> Option<Pod> {
        let mut pods = self.0.registry.pods();
        if self.0.lifetime == Lifetime::Group || pods.is_empty() {
            return pods.pop();
        }
        // Create reports a configuration that is invalid.
        let annotations = bundle.config().ok()?.annotations?;
        self.0.registry.pod(annotations.get(SANDBOX_ID)?)
    }

    /// Finds the process that a request names: the container's init, or an exec.
    pub(crate) fn process(&self, id: &str, exec_id: &str) -> Result<Process> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            return Ok(Process::Init(container));
        }
        container
            .find_exec(exec_id)
            .map(Process::Exec)
            .ok_or_else(|| Error::ExecNotFound { id: id.to_owned(), exec_id: exec_id.to_owned() })
    }
}

/// A process of a container.
pub(crate) enum Process {
    Init(Container),
    Exec(Exec),
}

/// The Task service under the names of its versions 2 and 3, and the Sandbox service.
#[must_use]
pub fn services(service: &Service) -> HashMap<String, Methods> {
    let make = || create_task(Arc::new(service.clone())).into_values();
    let tasks = ["containerd.task.v2.Task", "containerd.task.v3.Task"]
        .into_iter()
        .flat_map(|name| make().map(move |methods| (name.to_owned(), methods)));
    tasks
        .chain(create_sandbox(Arc::new(service.clone())))
        .map(|(name, methods)| (name, uncancellable(methods, &service.0.in_flight)))
        .collect()
}

pub(crate) type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Answer<api::CreateTaskResponse> {
        Ok(rpc::create::create(self, request).await?)
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> Answer<api::StartResponse> {
        Ok(rpc::start::start(self, request).await?)
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> Answer<api::StateResponse> {
        Ok(rpc::state::state(self, &request)?)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Answer<api::WaitResponse> {
        Ok(rpc::wait::wait(self, request).await?)
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Answer<api::Empty> {
        Ok(rpc::kill::kill(self, request).await?)
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> Answer<api::DeleteResponse> {
        Ok(rpc::delete::delete(self, request).await?)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Answer<api::PidsResponse> {
        Ok(rpc::pids::pids(self, &request)?)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> Answer<api::StatsResponse> {
        Ok(rpc::stats::stats(self, &request)?)
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> Answer<api::ConnectResponse> {
        Ok(rpc::connect::connect(self, &request)?)
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> Answer<api::Empty> {
        Ok(rpc::shutdown::shutdown(self, &request).await?)
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Answer<api::Empty> {
        Ok(rpc::close_io::close_io(self, request).await?)
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Answer<api::Empty> {
        Ok(rpc::exec::exec(self, request)?)
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> Answer<api::Empty> {
        Ok(rpc::resize_pty::resize_pty(self, request).await?)
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Answer<api::Empty> {
        Ok(rpc::pause::pause(self, request).await?)
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Answer<api::Empty> {
        Ok(rpc::resume::resume(self, request).await?)
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> Answer<api::Empty> {
        Ok(rpc::update::update(self, request).await?)
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> Answer<api::Empty> {
        Err(Error::Unsupported("a checkpoint").into())
    }
}
