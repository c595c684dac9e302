//! Raw calls of a shim's Task API, for requests that no client of containerd can send.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{self, Client, Code};
use std::path::Path;
use std::time::Duration;
use wherry_testing::Container;

/// A connection to a shim.
pub struct Shim {
    client: Client,
    service: String,
}

impl Shim {
    /// Connects to the shim that serves this container.
    pub fn of(container: &Container<'_>) -> Shim {
        let (socket, version) = container.shim_address();
        Shim::at(&socket, version)
    }

    /// Connects to the shim that listens on a socket and has announced this version of the Task
    /// API.
    pub fn at(socket: &Path, version: u32) -> Shim {
        Shim::try_at(socket, version).unwrap_or_else(|e| panic!("{}: {e}", socket.display()))
    }

    /// Like [`Shim::at`], for a shim that may have ended.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn try_at(socket: &Path, version: u32) -> ttrpc::Result<Shim> {
        let client = Client::connect(&format!("unix://{}", socket.display()))?;
        Ok(Shim { client, service: format!("containerd.task.v{version}.Task") })
    }

    /// Calls a method, whether the shim answers or ends.
    pub fn try_call(&self, method: &str, request: &impl Message) {
        let payload = request.write_to_bytes().expect("a complete message");
        // Neither the answer nor a closed connection matters to the caller.
        let _ = self.exchange(&self.service, method, payload);
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn call<R: Message>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, (Code, String)> {
        let payload = request.write_to_bytes().expect("a complete message");
        let answer = self.call_with(&self.service, method, payload)?;
        Ok(R::parse_from_bytes(&answer).unwrap_or_else(|e| panic!("{method}: {e}")))
    }

    /// Calls a method of a service with raw bytes, and returns the bytes of the answer.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn call_with(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, (Code, String)> {
        self.exchange(service, method, payload).map_err(|e| match e {
            ttrpc::Error::RpcStatus(status) => (status.code(), status.message().to_owned()),
            other => panic!("{method}: {other}"),
        })
    }

    fn exchange(&self, service: &str, method: &str, payload: Vec<u8>) -> ttrpc::Result<Vec<u8>> {
        let request = ttrpc::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(Duration::from_secs(60).as_nanos()).expect("fits"),
            payload,
            ..Default::default()
        };
        Ok(self.client.request(request)?.payload)
    }

    /// The name of its service, with the announced version.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Calls a method that must fail, and returns the code and the text.
    pub fn refused(&self, method: &str, request: &impl Message) -> (Code, String) {
        match self.call::<containerd_shim_protos::api::Empty>(method, request) {
            Ok(_) => panic!("{method} should have failed"),
            Err(refusal) => refusal,
        }
    }
}
