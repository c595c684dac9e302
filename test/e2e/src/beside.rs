//! Containers of a test's own in a live shim, beside the one that containerd made: for what no client of
//! containerd can be made to ask.

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

/// A bundle with a configuration and a root filesystem whose `/app.wasm` says hello; both are the test's to
/// change. There are no mounts: the bundle's own `rootfs` folder is the root.
pub struct Beside {
    id: String,
    folder: TempDir,
}

impl Beside {
    /// A bundle in containerd's folder, with this configuration.
    pub fn new(containerd: &Containerd, id: &str, config: &Value) -> Beside {
        let folder = TempDir::new_in(containerd.root()).expect("a temporary folder");
        let beside = Beside { id: id.to_owned(), folder };
        fs::create_dir(beside.path().join("rootfs")).expect("it is writable");
        fs::write(beside.path().join("rootfs/app.wasm"), hello_wasm()).expect("it is writable");
        beside.configure(&config.to_string());
        beside
    }

    /// The configuration of a container, made fit for one in a bundle of this kind, with this id.
    pub fn config_like(container: &Container<'_>, containerd: &Containerd, id: &str) -> Value {
        let text = fs::read_to_string(container.bundle().join("config.json")).expect("its spec");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["linux"]["cgroupsPath"] = format!("/{}/{id}", containerd.namespace()).into();
        config["root"]["path"] = "rootfs".into();
        config
    }

    /// Writes another configuration.
    pub fn configure(&self, text: &str) {
        fs::write(self.path().join("config.json"), text).expect("it is writable");
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What Create takes: the bundle, and no streams.
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

    /// Creates it, lets it run to its end, deletes it, and returns its exit code.
    ///
    /// # Errors
    /// Code and text of the Create or Start that was refused; it is deleted then, too.
    pub fn run(&self, shim: &Shim) -> Result<u32, (Code, String)> {
        self.create(shim)?;
        let started = self.start(shim);
        let exit = started.map(|_| self.wait(shim));
        self.delete(shim).expect("what has ended, or never began, can be deleted");
        exit
    }

    /// Starts it.
    ///
    /// # Errors
    /// The RPC's code and text.
    pub fn start(&self, shim: &Shim) -> Result<StartResponse, (Code, String)> {
        shim.call("Start", &StartRequest { id: self.id.clone(), ..Default::default() })
    }

    /// Waits for its end, and returns its exit code.
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

/// What a person can read at one glance.
#[track_caller]
pub fn is_a_sentence(text: &str) {
    assert!(!text.is_empty() && text.lines().count() == 1 && text.len() < 2000, "{text:?}");
}

/// A container runs, its shim is the one it was, and did not panic.
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
