//! The Sandbox service: pods that the daemon makes itself, for `sandboxer = "shim"`.
//!
//! containerd calls CreateSandbox and StartSandbox, then creates the pod's containers through the
//! Task API of the same daemon, and at the end calls StopSandbox and ShutdownSandbox. WaitSandbox
//! waits in between. SandboxStatus names the pid whose namespaces the containers join.

pub mod pod_config;

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use ttrpc::asynchronous::TtrpcContext;
use wherry_cgroup::{Cgroup, Meter};
use wherry_container::{Pod, PodState};

use crate::convert;
use crate::error::{Error, Result};
use crate::rpc::create::check_id;
use crate::service::{Answer, Service};

pub(crate) use pod_config::PodConfigError;

/// How long StopSandbox waits for the ends of containers that it has killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

#[async_trait]
impl Sandbox for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> Answer<api::CreateSandboxResponse> {
        create(self, request).await?;
        Ok(api::CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> Answer<api::StartSandboxResponse> {
        let pod = self.pod(&request.sandbox_id)?;
        let mut response = api::StartSandboxResponse::new();
        response.pid = convert::pid(pod.start().await.map_err(Error::from)?);
        response.created_at = Some(Timestamp::from(pod.created_at())).into();
        self.runtime().prepare_host();
        Ok(response)
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: api::PlatformRequest,
    ) -> Answer<api::PlatformResponse> {
        self.pod(&request.sandbox_id)?;
        let mut response = api::PlatformResponse::new();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".to_owned();
        platform.architecture = architecture(std::env::consts::ARCH).to_owned();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> Answer<api::StopSandboxResponse> {
        let pod = self.pod(&request.sandbox_id)?;
        kill_containers(self, &pod).await;
        pod.stop().await;
        Ok(api::StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> Answer<api::WaitSandboxResponse> {
        let exit = self.pod(&request.sandbox_id)?.wait().await.map_err(Error::from)?;
        let mut response = api::WaitSandboxResponse::new();
        response.exit_status = exit.status;
        response.exited_at = Some(Timestamp::from(exit.at)).into();
        Ok(response)
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> Answer<api::SandboxStatusResponse> {
        Ok(status(&self.pod(&request.sandbox_id)?))
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::PingRequest,
    ) -> Answer<api::PingResponse> {
        self.pod(&request.sandbox_id)?;
        Ok(api::PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> Answer<api::ShutdownSandboxResponse> {
        // containerd also sends this after a CreateSandbox that failed.
        if let Ok(pod) = self.pod(&request.sandbox_id) {
            remove(self, &pod).await?;
        }
        self.request_shutdown();
        Ok(api::ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> Answer<api::SandboxMetricsResponse> {
        Ok(metrics(&self.pod(&request.sandbox_id)?)?)
    }
}

async fn create(service: &Service, request: api::CreateSandboxRequest) -> Result<()> {
    check_id("sandbox", &request.sandbox_id)?;
    if !request.bundle_path.starts_with('/') {
        return Err(Error::RelativeBundle(request.bundle_path));
    }
    let reserved = service.registry().reserve_pod(&request.sandbox_id)?;
    let config = pod_config::of(request)?;
    let pod = Pod::create(config, service.runtime().supervisor.reaper.clone()).await?;
    reserved.fill(pod);
    Ok(())
}

/// Removes a pod. Its containers end with it, and are removed by Delete.
pub(crate) async fn remove(service: &Service, pod: &Pod) -> Result<()> {
    kill_containers(service, pod).await;
    let removed = pod.remove().await;
    service.registry().remove_pod(&pod.config().id);
    Ok(removed?)
}

/// Kills the containers of a pod that still run: containerd stops them before their pod.
async fn kill_containers(service: &Service, pod: &Pod) {
    let deadline = tokio::time::Instant::now() + KILL_TIMEOUT;
    let running = service.registry().containers().into_iter();
    let running: Vec<_> = running
        .filter(|container| container.config().container.pod.as_ref() == Some(&pod.bundle()))
        .filter(|container| container.snapshot().state.exit().is_none())
        .collect();
    for container in &running {
        if let Err(error) = container.kill(SIGKILL, true).await {
            log::info!("{}: {error}", container.config().container.id);
        }
    }
    for container in running {
        if tokio::time::timeout_at(deadline, container.wait()).await.is_err() {
            log::warn!(
                "{}: the container did not end with its pod",
                container.config().container.id
            );
        }
    }
}

/// The status, with the names of states that containerd's CRI plugin reads.
fn status(pod: &Pod) -> api::SandboxStatusResponse {
    let mut response = api::SandboxStatusResponse::new();
    response.sandbox_id.clone_from(&pod.config().id);
    response.pid = convert::pid(pod.pid());
    response.created_at = Some(Timestamp::from(pod.created_at())).into();
    let state = match pod.state() {
        PodState::Ready(_) => "SANDBOX_READY",
        PodState::Created => "SANDBOX_NOTREADY",
        PodState::Stopped(exit) => {
            response.exited_at = Some(Timestamp::from(exit.at)).into();
            "SANDBOX_NOTREADY"
        }
    };
    response.state = state.to_owned();
    response
}

/// The usage of all containers of the pod: that of the cgroup above theirs.
fn metrics(pod: &Pod) -> Result<api::SandboxMetricsResponse> {
    let id = &pod.config().id;
    let parent = pod.config().cgroup_parent.as_deref();
    let parent = parent.ok_or_else(|| Error::NoPodUsage(id.clone()))?;
    let usage = Meter::new(Cgroup::at(parent), true).read();
    let mut response = api::SandboxMetricsResponse::new();
    let metric = response.metrics.mut_or_insert_default();
    metric.id.clone_from(id);
    metric.timestamp = Some(Timestamp::from(SystemTime::now())).into();
    metric.data = Some(crate::stats::metrics(&usage)?).into();
    Ok(response)
}

/// The name of a processor architecture in containerd's platforms, which are those of Go.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
