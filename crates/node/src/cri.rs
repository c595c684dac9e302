//! A client of containerd's CRI: its version, its runtime handlers, its pods.
//!
//! The messages are those of `runtime.v1` in Kubernetes' `api.proto`, with only the fields that
//! this program uses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::error::NodeError;

/// A working daemon answers in milliseconds; for any other the caller repeats the request.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct VersionResponse {
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Features {
    #[prost(bool, tag = "1")]
    recursive_read_only: bool,
    #[prost(bool, tag = "2")]
    user_namespaces: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Handler {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    features: Option<Features>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
    #[prost(message, repeated, tag = "3")]
    handlers: Vec<Handler>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pod {
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(string, tag = "7")]
    handler: String,
}

/// `SANDBOX_READY` of the CRI's `PodSandboxState`.
const READY: i32 = 0;

#[derive(Clone, PartialEq, prost::Message)]
struct ListPodsResponse {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<Pod>,
}

/// The status and configuration of the running containerd.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// The runtime handlers, which a RuntimeClass can name.
    pub(crate) handlers: Vec<String>,
    /// The handlers that can run pods with `hostUsers: false`.
    pub(crate) user_namespaces: Vec<String>,
    /// Why it is not ready to run pods.
    pub(crate) not_ready: Option<String>,
    /// The CRI plug-in's configuration, as JSON.
    pub(crate) config: Value,
}

impl Running {
    /// runc's option `SystemdCgroup`, which the operator of the node has set as the node needs it.
    pub(crate) fn runc_systemd_cgroup(&self) -> Option<bool> {
        let default = self.config.pointer("/containerd/defaultRuntimeName").and_then(Value::as_str);
        let of = |name: &str| {
            self.config
                .pointer(&format!("/containerd/runtimes/{name}/options/SystemdCgroup"))?
                .as_bool()
        };
        of("runc").or_else(|| default.and_then(of))
    }

    /// Whether containers get SELinux labels.
    pub(crate) fn selinux(&self) -> bool {
        self.config.get("enableSelinux").and_then(Value::as_bool).unwrap_or(false)
    }
}

/// A client of a containerd's CRI.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    /// Where this process finds the socket.
    socket: PathBuf,
}

impl Cri {
    pub(crate) fn new(socket: &Path) -> Cri {
        Cri { socket: socket.to_owned() }
    }

    /// The version of containerd.
    pub(crate) fn version(&self) -> Result<String, NodeError> {
        let answer: VersionResponse = self.call("Version", Empty {})?;
        if answer.runtime_name == "containerd" {
            return Ok(answer.runtime_version);
        }
        let reason = format!("{} answers there, not containerd", answer.runtime_name);
        Err(NodeError::Cri { address: self.socket.clone(), doing: "Version", reason })
    }

    /// Its status and configuration.
    pub(crate) fn running(&self) -> Result<Running, NodeError> {
        let answer: StatusResponse = self.call("Status", StatusRequest { verbose: true })?;
        running(answer).map_err(|error| NodeError::Cri {
            address: self.socket.clone(),
            doing: "Status",
            reason: format!("cannot parse containerd's configuration: {error}"),
        })
    }

    /// The running pods of these handlers, as NAMESPACE/NAME. containerd removes a pod that has
    /// ended without calling the runtime.
    pub(crate) fn pods_of(&self, handlers: &[&str]) -> Result<Vec<String>, NodeError> {
        let answer: ListPodsResponse = self.call("ListPodSandbox", Empty {})?;
        let ours = answer
            .pods
            .into_iter()
            .filter(|pod| pod.state == READY && handlers.contains(&pod.handler.as_str()));
        let name = |pod: Pod| {
            let metadata = pod.metadata.unwrap_or_default();
            format!("{}/{}", metadata.namespace, metadata.name)
        };
        Ok(ours.map(name).collect())
    }

    fn call<A: prost::Message + Default + 'static>(
        &self,
        method: &'static str,
        request: impl prost::Message + 'static,
    ) -> Result<A, NodeError> {
        let fail =
            |reason: String| NodeError::Cri { address: self.socket.clone(), doing: method, reason };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| fail(e.to_string()))?;
        let answer = runtime.block_on(unary(&self.socket, method, request));
        answer.map_err(|status| match status.code() {
            Code::Unimplemented => NodeError::CriDisabled {
                address: self.socket.clone(),
                config: "containerd's configuration".into(),
                reason: status.message().to_owned(),
            },
            _ => fail(text_of(&status)),
        })
    }
}

/// The innermost cause: tonic's own text for a socket that does not answer is "transport error".
fn text_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

async fn unary<A: prost::Message + Default + 'static>(
    socket: &Path,
    method: &str,
    request: impl prost::Message + 'static,
) -> Result<A, Status> {
    let channel: Channel = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .map_err(|e| Status::unavailable(e.to_string()))?
        .timeout(LIMIT)
        .connect()
        .await
        .map_err(|e| Status::from_error(Box::new(e)))?;
    let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))
        .map_err(|e| Status::internal(e.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    client
        .unary(Request::new(request), path, ProstCodec::default())
        .await
        .map(tonic::Response::into_inner)
}

/// Converts a status. containerd 2.x lists its handlers; for older ones they are in the
/// configuration.
fn running(answer: StatusResponse) -> Result<Running, serde_json::Error> {
    let config: Value = match answer.info.get("config") {
        Some(text) => serde_json::from_str(text)?,
        None => Value::Null,
    };
    let configured = config.pointer("/containerd/runtimes").and_then(Value::as_object);
    let mut handlers: Vec<String> = answer
        .handlers
        .iter()
        .map(|handler| handler.name.clone())
        .filter(|name| !name.is_empty())
        .collect();
    if handlers.is_empty() {
        handlers = configured.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    }
    handlers.sort();
    handlers.dedup();
    let with_users = answer.handlers.into_iter().filter(|handler| {
        handler.features.as_ref().is_some_and(|features| features.user_namespaces)
    });
    let conditions = answer.status.unwrap_or_default().conditions;
    let not_ready = conditions
        .into_iter()
        .find(|condition| condition.kind == "RuntimeReady" && !condition.status);
    Ok(Running {
        handlers,
        user_namespaces: with_users.map(|handler| handler.name).collect(),
        not_ready: not_ready.map(|condition| condition.message),
        config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(handlers: &[&str], config: &str) -> StatusResponse {
        StatusResponse {
            status: None,
            info: HashMap::from([("config".to_owned(), config.to_owned())]),
            handlers: handlers
                .iter()
                .map(|name| Handler { name: (*name).to_owned(), features: None })
                .collect(),
        }
    }

    const CONFIG: &str = r#"{"enableSelinux": true, "containerd": {"defaultRuntimeName": "runc", "runtimes":
        {"runc": {"options": {"SystemdCgroup": true}}, "wamr": {}}}}"#;

    #[test]
    fn handlers_are_listed_by_containerd_2_and_configured_before() {
        assert_eq!(
            running(answer(&["", "wasmtime", "runc"], CONFIG)).unwrap().handlers,
            ["runc", "wasmtime"]
        );
        assert_eq!(running(answer(&[], CONFIG)).unwrap().handlers, ["runc", "wamr"]);
    }

    #[test]
    fn the_options_of_runc_are_read() {
        let running = running(answer(&[], CONFIG)).unwrap();
        assert_eq!(running.runc_systemd_cgroup(), Some(true));
        assert!(running.selinux());
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let error = Cri::new(Path::new("/nowhere/c.sock")).version().unwrap_err();
        assert!(error.to_string().contains("/nowhere/c.sock"), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
