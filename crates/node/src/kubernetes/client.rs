//! A client of the Kubernetes API for a process in a pod: the address is in the environment, token
//! and certificate authority are in files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::NodeError;

/// The directory at which the kubelet mounts a pod's credentials.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const LIMIT: Duration = Duration::from_secs(30);

/// A client with the pod's credentials.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: String,
}

impl Client {
    /// Reads the pod's credentials.
    pub(super) fn of_the_pod() -> Result<Client, NodeError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| NodeError::Kubernetes {
                doing: "finding it".into(),
                reason: format!("{name} is not set: this does not run in a pod"),
            })
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        // An IPv6 address needs brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let folder = std::env::var("WHERRY_CREDENTIALS").unwrap_or_else(|_| CREDENTIALS.to_owned());
        let read = |name: &str| {
            let path = Path::new(&folder).join(name);
            std::fs::read(&path).map_err(NodeError::file("reading", path))
        };
        let token = String::from_utf8_lossy(&read("token")?).trim().to_owned();
        let agent = agent(&read("ca.crt")?)?;
        Ok(Client { agent, base: format!("https://{host}:{port}"), token })
    }

    /// Sends a merge patch.
    pub(super) fn patch(&self, path: &str, patch: &Value) -> Result<(), NodeError> {
        let request = self
            .agent
            .patch(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
            .content_type("application/merge-patch+json");
        let answer = request.send(patch.to_string()).map_err(failed("PATCH", path))?;
        text("PATCH", path, answer).map(drop)
    }

    /// Reads a resource as text.
    pub(super) fn get(&self, path: &str) -> Result<String, NodeError> {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token));
        text("GET", path, request.call().map_err(failed("GET", path))?)
    }
}

/// An HTTP agent that trusts only the cluster's certificate authority.
fn agent(authority: &[u8]) -> Result<Agent, NodeError> {
    let certificates: Vec<Certificate<'static>> = parse_pem(authority)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let reason = "ca.crt has no certificate".to_owned();
        return Err(NodeError::Kubernetes { doing: "reading credentials".into(), reason });
    }
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::from(certificates))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        // The API server is reached directly, not through a proxy that the pod's environment names.
        .proxy(None)
        // The answer's text names the forbidden action.
        .http_status_as_error(false)
        .timeout_global(Some(LIMIT))
        .build();
    Ok(config.into())
}

/// Returns the body of a successful answer. Otherwise the message in it becomes the error.
fn text(
    verb: &str,
    path: &str,
    mut answer: ureq::http::Response<ureq::Body>,
) -> Result<String, NodeError> {
    let status = answer.status();
    let body = answer.body_mut().read_to_string().map_err(failed(verb, path))?;
    if status.is_success() {
        return Ok(body);
    }
    let message = serde_json::from_str::<Value>(&body).ok();
    let message = message.as_ref().and_then(|value| value.get("message")).and_then(Value::as_str);
    let reason = format!("{status}: {}", message.unwrap_or(body.trim()));
    Err(NodeError::Kubernetes { doing: format!("{verb} {path}"), reason })
}

fn failed(verb: &str, path: &str) -> impl FnOnce(ureq::Error) -> NodeError {
    let doing = format!("{verb} {path}");
    move |error| NodeError::Kubernetes { doing, reason: error.to_string() }
}
