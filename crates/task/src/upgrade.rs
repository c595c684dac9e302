//! The service `wherry.v1.Daemon` of each daemon: asks it to hand over to the installed executable.
//!
//! containerd does not know it: the `upgrade` command is its only client. Messages are JSON.
//! Upgrade is answered by the new version: it is one of the requests that the daemon does not
//! answer before the handover, so the new version is asked again, and finds that it runs already.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::{Client, MethodHandler, Service as Methods, TtrpcContext};
use ttrpc::{Code, Request, Response};

/// The name of the service.
const SERVICE: &str = "wherry.v1.Daemon";
/// The method that answers with the [`DaemonStatus`].
const STATUS: &str = "Status";
/// The method that answers with it when the daemon runs the installed executable.
pub(crate) const UPGRADE: &str = "Upgrade";
/// How long a client waits for the status, nanoseconds.
const STATUS_TIMEOUT: i64 = 2_000_000_000;
/// How long a client waits for an upgrade, nanoseconds: longer than it is attempted.
const UPGRADE_TIMEOUT: i64 = 60_000_000_000;

/// A daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The runtime, as in `io.containerd.<name>.v1`.
    pub runtime: String,
    /// The version of its executable.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// containerd's namespace.
    pub namespace: String,
    /// The number of handovers so far.
    pub upgrades: u64,
}

/// A request for an upgrade. The answer is the reason why it is not possible; none if the daemon
/// runs the installed executable.
pub type UpgradeRequest = oneshot::Sender<Result<(), String>>;

/// Returns the service. Requests for an upgrade go to `requests`.
#[must_use]
pub fn daemon_service(
    status: &DaemonStatus,
    requests: mpsc::Sender<UpgradeRequest>,
) -> HashMap<String, Methods> {
    // A structure of text and numbers can be encoded.
    let answer = serde_json::to_vec(status).unwrap_or_default();
    let method = |requests| -> Box<dyn MethodHandler + Send + Sync> {
        Box::new(Method { answer: answer.clone(), requests })
    };
    let methods = HashMap::from([
        (STATUS.to_owned(), method(None)),
        (UPGRADE.to_owned(), method(Some(requests))),
    ]);
    HashMap::from([(SERVICE.to_owned(), Methods { methods, streams: HashMap::new() })])
}

struct Method {
    answer: Vec<u8>,
    /// None for the status.
    requests: Option<mpsc::Sender<UpgradeRequest>>,
}

#[async_trait]
impl MethodHandler for Method {
    async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
        let mut response = Response::new();
        let result = match &self.requests {
            Some(requests) => ask(requests).await,
            None => Ok(()),
        };
        match result {
            Ok(()) => response.payload.clone_from(&self.answer),
            Err(reason) => {
                response.set_status(ttrpc::get_status(Code::FAILED_PRECONDITION, reason));
            }
        }
        Ok(response)
    }
}

async fn ask(requests: &mpsc::Sender<UpgradeRequest>) -> Result<(), String> {
    let (reply, answer) = oneshot::channel();
    let gone = "the shim is shutting down";
    requests.send(reply).await.map_err(|_| gone)?;
    answer.await.map_err(|_| gone)?
}

/// A client of the service.
pub struct DaemonClient(Client);

impl DaemonClient {
    /// Connects to the daemon at `address`, a `unix://` URL. Must be called within the runtime.
    ///
    /// # Errors
    /// If no daemon listens there.
    pub async fn connect(address: &str) -> ttrpc::Result<DaemonClient> {
        Ok(DaemonClient(Client::connect(address).await?))
    }

    /// The daemon.
    ///
    /// # Errors
    /// If it does not answer, or does not have this service.
    pub async fn status(&self) -> ttrpc::Result<DaemonStatus> {
        self.call(STATUS, STATUS_TIMEOUT).await
    }

    /// Asks the daemon to hand over to the installed executable, and returns the one that runs
    /// afterwards.
    ///
    /// # Errors
    /// With the reason if it does not.
    pub async fn upgrade(&self) -> ttrpc::Result<DaemonStatus> {
        self.call(UPGRADE, UPGRADE_TIMEOUT).await
    }

    async fn call(&self, method: &str, timeout: i64) -> ttrpc::Result<DaemonStatus> {
        let mut request = Request::new();
        request.service = SERVICE.to_owned();
        request.method = method.to_owned();
        request.timeout_nano = timeout;
        let response = self.0.request(request).await?;
        serde_json::from_slice(&response.payload)
            .map_err(|error| ttrpc::Error::Others(format!("invalid answer to {method}: {error}")))
    }
}
