//! Additional containers in a live shim, beside the one that containerd created: for requests that
//! no client of containerd can send.

use crate::images::hello_wasm;
use crate::shim::Shim;
use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, StartRequest,
    StartResponse, StateRequest, StateResponse, Status, WaitRequest, WaitResponse,
};
use containerd_shim_protos::ttrpc::Code;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use wherry_testing::{Container, Containerd};

/// A bundle with a configuration and a root filesystem whose `/app.wasm` prints hello; a test may
/// change both. The configuration has an empty list of mounts: the bundle's `rootfs` folder is the
/// root.
pub struct Beside {
    id: String,
    folder: TempDir,
}

impl Beside {
    /// Creates a bundle with this configuration in containerd's folder.
    pub fn new(containerd: &Containerd, id: &str, config: &Value) -> Beside {
        let folder = TempDir::new_in(containerd.root()).expect("a temporary folder");
        let beside = Beside { id: id.to_owned(), folder };
        fs::create_dir(beside.path().join("rootfs")).expect("it is writable");
        fs::write(beside.path().join("rootfs/app.wasm"), hello_wasm()).expect("it is writable");
        beside.configure(&config.to_string());
        beside
    }

    /// Adapts the configuration of another container to a bundle of this kind, with this id.
    pub fn config_like(container: &Container<'_>, containerd: &Containerd, id: &str) -> Value {
        let text = fs::read_to_string(container.bundle().join("config.json")).expect("its spec");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["linux"]["cgroupsPath"] = format!("/{}/{id}", containerd.namespace()).into();
        config["root"]["path"] = "rootfs".into();
        config
    }

    /// Replaces the configuration.
    pub fn configure(&self, text: &str) {
        fs::write(self.path().join("config.json"), text).expect("it is writable");
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of the bundle.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A request for Create: the bundle, and no streams.
    pub fn request(&self) -> CreateTaskRequest {
        let mut request = CreateTaskRequest::new();
        request.id = self.id.clone();
        request.bundle = self.path().display().to_string();
        request
    }

    /// Creates it.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn create(&self, shim: &Shim) -> Result<CreateTaskResponse, (Code, String)> {
        shim.call("Create", &self.request())
    }

    /// Creates the container, runs it to its end, deletes it, and returns its exit code.
    ///
    /// # Errors
    /// The code and text of a refused Create or Start; the container is deleted then too.
    pub fn run(&self, shim: &Shim) -> Result<u32, (Code, String)> {
        self.create(shim)?;
        let started = self.start(shim);
        let exit = started.map(|_| self.wait(shim));
        self.delete(shim).expect("a container that does not run can be deleted");
        exit
    }

    /// Starts it.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn start(&self, shim: &Shim) -> Result<StartResponse, (Code, String)> {
        shim.call("Start", &StartRequest { id: self.id.clone(), ..Default::default() })
    }

    /// Waits for the end, and returns the exit code.
    pub fn wait(&self, shim: &Shim) -> u32 {
        let request = WaitRequest { id: self.id.clone(), ..Default::default() };
        shim.call::<WaitResponse>("Wait", &request).expect("Wait answers").exit_status
    }

    /// Deletes it.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn delete(&self, shim: &Shim) -> Result<DeleteResponse, (Code, String)> {
        shim.call("Delete", &DeleteRequest { id: self.id.clone(), ..Default::default() })
    }
}

/// Asserts that a text is short enough for a person to read at a glance.
#[track_caller]
pub fn is_a_sentence(text: &str) {
    assert!(!text.is_empty() && text.lines().count() == 1 && text.len() < 2000, "{text:?}");
}

/// Asserts that a container runs under the same shim as before, which has not panicked.
#[track_caller]
pub fn lives_on(containerd: &Containerd, container: &Container<'_>) {
    let request = StateRequest { id: container.id().to_owned(), ..Default::default() };
    let state: StateResponse =
        Shim::of(container).call("State", &request).expect("State answers on a new connection");
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING), "{state:?}");
    assert_eq!(container.shims().len(), 1);
    let log = fs::read_to_string(containerd.log_path()).expect("containerd has a log");
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked at")).collect();
    assert!(panics.is_empty(), "{panics:#?}");
}
