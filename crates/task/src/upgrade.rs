//! The service `wherry.v1.Daemon` of each daemon: asks it to hand over to the installed executable.
//!
//! containerd does not know it: the `upgrade` command is its only client. Messages are JSON.
//! Upgrade is answered by the new version: it is one of the requests that the daemon does not
//! answer before the handover, so the new version is asked again, and finds that it runs already.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::{self, Message};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::{MethodHandler, Service as Methods, TtrpcContext};
use ttrpc::proto::MESSAGE_HEADER_LENGTH;
use ttrpc::{Code, MessageHeader, Request, Response};

/// The name of the service.
const SERVICE: &str = "wherry.v1.Daemon";
/// The method that answers with the [`DaemonStatus`].
const STATUS: &str = "Status";
/// The method that answers with it when the daemon runs the installed executable.
pub(crate) const UPGRADE: &str = "Upgrade";
/// How long a client waits for the status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client waits for an upgrade: longer than it is attempted.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer, bytes: a status, or a reason.
const ANSWER_MAX: u64 = 1 << 16;

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

/// Why a daemon is not upgraded, or its status is unknown.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection fails, or the daemon does not answer in time.
    #[error("it does not answer: {0}")]
    Io(#[from] io::Error),
    /// The daemon refuses, with the reason.
    #[error("{0}")]
    Refused(String),
    /// The answer is not one of ttrpc.
    #[error("invalid answer: {0}")]
    Protobuf(#[from] protobuf::Error),
    /// The answer is not a status.
    #[error("invalid answer: {0}")]
    Json(#[from] serde_json::Error),
}

/// A client of the service, which blocks.
pub struct DaemonClient(UnixStream);

impl DaemonClient {
    /// Connects to the daemon at a socket.
    ///
    /// # Errors
    /// If no daemon listens there.
    pub fn connect(socket: &Path) -> io::Result<DaemonClient> {
        UnixStream::connect(socket).map(DaemonClient)
    }

    /// The daemon.
    ///
    /// # Errors
    /// If it does not answer, or does not have this service.
    pub fn status(&mut self) -> Result<DaemonStatus, AskError> {
        self.call(1, STATUS, STATUS_TIMEOUT)
    }

    /// Asks the daemon to hand over to the installed executable, and returns the one that runs
    /// afterwards.
    ///
    /// # Errors
    /// With the reason if it does not.
    pub fn upgrade(&mut self) -> Result<DaemonStatus, AskError> {
        self.call(3, UPGRADE, UPGRADE_TIMEOUT)
    }

    fn call(&mut self, id: u32, method: &str, limit: Duration) -> Result<DaemonStatus, AskError> {
        let mut request = Request::new();
        request.service = SERVICE.to_owned();
        request.method = method.to_owned();
        let payload = request.write_to_bytes()?;
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.0.set_read_timeout(Some(limit))?;
        self.0.write_all(&Vec::from(MessageHeader::new_request(id, length)))?;
        self.0.write_all(&payload)?;
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        self.0.read_exact(&mut header)?;
        let mut payload = Vec::new();
        let length = u64::from(MessageHeader::from(header).length);
        (&self.0).take(length.min(ANSWER_MAX)).read_to_end(&mut payload)?;
        let response = Response::parse_from_bytes(&payload)?;
        match response.status.into_option() {
            Some(status) if status.code() != Code::OK => Err(AskError::Refused(status.message)),
            _ => Ok(serde_json::from_slice(&response.payload)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ttrpc::asynchronous::Server;

    #[tokio::test]
    async fn a_client_gets_the_status_the_version_that_runs_afterwards_or_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let status = DaemonStatus {
            runtime: "e".to_owned(),
            version: "1".to_owned(),
            pid: 7,
            namespace: "moby".to_owned(),
            upgrades: 2,
        };
        let (sender, mut requests) = mpsc::channel::<UpgradeRequest>(1);
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(daemon_service(&status, sender));
        server.start().await.unwrap();
        tokio::spawn(async move {
            for answer in [Ok(()), Err("a container is busy".to_owned())] {
                requests.recv().await.unwrap().send(answer).unwrap();
            }
        });
        let client = tokio::task::spawn_blocking(move || {
            let mut client = DaemonClient::connect(&socket).unwrap();
            assert_eq!(client.status().unwrap(), status);
            assert_eq!(client.upgrade().unwrap(), status);
            let refused = client.upgrade().unwrap_err().to_string();
            assert_eq!(refused, "a container is busy");
        });
        client.await.unwrap();
    }
}
