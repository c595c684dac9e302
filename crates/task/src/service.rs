//! The Task service: all 17 methods, each answered explicitly.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{Task, create_task};
use tokio::sync::watch;
use ttrpc::asynchronous::{Service as Methods, TtrpcContext};
use wherry_container::{Container, Exec, Runtime};

use crate::error::{no_such_container, no_such_exec, unimplemented};
use crate::method::carried_out;
use crate::registry::Registry;
use crate::rpc;

/// What the methods work on. Clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    runtime: Arc<Runtime>,
    registry: Registry,
    shutdown: watch::Sender<bool>,
}

impl Service {
    /// A service without containers.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>) -> Service {
        let shutdown = watch::Sender::new(false);
        Service(Arc::new(Inner { runtime, registry: Registry::default(), shutdown }))
    }

    /// Waits until a client has asked for the end while there was no container left.
    pub async fn ended(&self) {
        // The sender lives as long as we do.
        let _ = self.0.shutdown.subscribe().wait_for(|ended| *ended).await;
    }

    /// Whether there is a container, or has ever been.
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.0.registry.was_used()
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.0.runtime)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn end(&self) {
        self.0.shutdown.send_replace(true);
    }

    /// The container that a request names.
    pub(crate) fn container(&self, id: &str) -> ttrpc::Result<Container> {
        self.0.registry.get(id).ok_or_else(|| no_such_container(id))
    }

    /// The process that a request names: a container's first one, or another in it.
    pub(crate) fn process(&self, id: &str, exec_id: &str) -> ttrpc::Result<Process> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            return Ok(Process::Init(container));
        }
        container.find_exec(exec_id).map(Process::Exec).ok_or_else(|| no_such_exec(id, exec_id))
    }
}

/// A process of a container.
pub(crate) enum Process {
    Init(Container),
    Exec(Exec),
}

/// The service under the names of both versions of the API.
#[must_use]
pub fn services(service: &Service) -> HashMap<String, Methods> {
    let make = || create_task(Arc::new(service.clone())).into_values();
    ["containerd.task.v2.Task", "containerd.task.v3.Task"]
        .into_iter()
        .flat_map(|name| make().map(move |methods| (name.to_owned(), carried_out(methods))))
        .collect()
}

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Answer<api::CreateTaskResponse> {
        rpc::create::create(self, request).await
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> Answer<api::StartResponse> {
        rpc::start::start(self, request).await
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> Answer<api::StateResponse> {
        rpc::state::state(self, &request)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Answer<api::WaitResponse> {
        rpc::wait::wait(self, request).await
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Answer<api::Empty> {
        rpc::kill::kill(self, request).await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> Answer<api::DeleteResponse> {
        rpc::delete::delete(self, request).await
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Answer<api::PidsResponse> {
        rpc::pids::pids(self, &request)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> Answer<api::StatsResponse> {
        rpc::stats::stats(self, &request)
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> Answer<api::ConnectResponse> {
        rpc::connect::connect(self, &request)
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> Answer<api::Empty> {
        rpc::shutdown::shutdown(self, &request)
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Answer<api::Empty> {
        rpc::close_io::close_io(self, request).await
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Answer<api::Empty> {
        rpc::exec::exec(self, request)
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> Answer<api::Empty> {
        rpc::resize_pty::resize_pty(self, request).await
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Answer<api::Empty> {
        rpc::pause::pause(self, request).await
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Answer<api::Empty> {
        rpc::resume::resume(self, request).await
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> Answer<api::Empty> {
        rpc::update::update(self, request).await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> Answer<api::Empty> {
        Err(unimplemented("a checkpoint"))
    }
}
