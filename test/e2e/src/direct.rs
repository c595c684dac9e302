//! A shim that a test starts without containerd, in a bundle of the test's own.

use crate::shim::Shim;
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::bootstrap_api::BootstrapResult;
use containerd_shim_protos::protobuf::Message;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use wherry_testing::{
    Containerd, Process, bin_dir, managers, processes, shared, shim_program, wait_until,
};

/// The namespace of all these shims.
pub const NAMESPACE: &str = "direct";

/// Calls the shim's executable with these arguments and this standard input, in this directory.
pub fn call(args: &[&str], stdin: &[u8], directory: &Path) -> Output {
    call_program(&bin_dir().join(shim_program()), args, stdin, directory)
}

fn call_program(program: &Path, args: &[&str], stdin: &[u8], directory: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the shim runs");
    // It may exit without reading it.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    // This returns when both outputs are closed, as for containerd: a daemon must not keep them.
    child.wait_with_output().expect("our own child")
}

/// A bundle and the shim that serves it.
pub struct Direct {
    program: PathBuf,
    directory: TempDir,
    id: String,
    /// The address of a containerd that does not exist. Each has its own manager.
    address: PathBuf,
    socket: PathBuf,
    version: u32,
}

impl Drop for Direct {
    fn drop(&mut self) {
        for manager in managers(&self.address) {
            // It would stay for some minutes. It may have ended.
            let _ = Command::new("kill").args(["-9", &manager.pid.to_string()]).status();
            let _ = fs::remove_file(&self.socket);
        }
    }
}

impl Direct {
    /// Makes a bundle whose program is this module, and calls `start`. The containerd only prints a
    /// configuration.
    pub fn start(containerd: &Containerd, id: &str, module: &[u8]) -> Direct {
        Direct::start_with(containerd, id, module, b"")
    }

    /// Like [`Direct::start`], with this on the standard input of `start`.
    pub fn start_with(containerd: &Containerd, id: &str, module: &[u8], stdin: &[u8]) -> Direct {
        Direct::of(&bin_dir().join(shim_program()), containerd, id, module, stdin)
    }

    /// Like [`Direct::start_with`], with this executable of the shim.
    pub fn of(
        program: &Path,
        containerd: &Containerd,
        id: &str,
        module: &[u8],
        stdin: &[u8],
    ) -> Direct {
        let directory = TempDir::new_in(containerd.root()).expect("a temporary directory");
        let mut direct = Direct {
            program: program.to_owned(),
            directory,
            id: format!("{id}-{}", std::process::id()),
            address: PathBuf::from(format!("/none-{id}-{}.sock", std::process::id())),
            socket: PathBuf::new(),
            version: 0,
        };
        let text = containerd.ctr(&["oci", "spec"]).success();
        let mut spec: Value = serde_json::from_str(&text).expect("ctr prints a configuration");
        spec["process"]["args"] = json!(["/app.wasm"]);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": "rootfs"});
        spec["linux"]["cgroupsPath"] = json!(format!("/{NAMESPACE}/{}", direct.id));
        fs::write(direct.path().join("config.json"), spec.to_string()).expect("it is writable");
        fs::create_dir(direct.path().join("rootfs")).expect("it is writable");
        fs::write(direct.path().join("rootfs/app.wasm"), module).expect("it is writable");
        direct.start_again(stdin);
        direct
    }

    /// Calls `start` in the bundle.
    pub fn start_again(&mut self, stdin: &[u8]) {
        let output = self.command("start", stdin);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let json: Option<Value> = serde_json::from_str(&said).ok();
        let result = BootstrapResult::parse_from_bytes(&output.stdout);
        let (address, version) = match (&json, result) {
            (Some(json), _) => (
                json["address"].as_str().expect("an address").to_owned(),
                json["version"].as_u64().expect("a version"),
            ),
            (None, Ok(result)) if !result.address.is_empty() => {
                (result.address, u64::try_from(result.version).expect("a version"))
            }
            _ => (said, 2),
        };
        self.socket = address.trim().trim_start_matches("unix://").into();
        self.version = u32::try_from(version).expect("a version");
    }

    /// Runs a command of the shim's executable in the bundle. It must succeed.
    pub fn command(&self, action: &str, stdin: &[u8]) -> Output {
        let output = call_program(&self.program, &self.words(action), stdin, self.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn words<'a>(&'a self, action: &'a str) -> Vec<&'a str> {
        let address = self.address.to_str().expect("it is text");
        let flags = ["-namespace", NAMESPACE, "-address", address, "-publish-binary", "/none"];
        [&flags[..], &["-id", &self.id, action]].concat()
    }

    /// The bundle.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The id of the container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The address of the containerd, which does not exist.
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// The socket of the shim.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A new connection to the shim.
    pub fn connect(&self) -> Shim {
        Shim::at(&self.socket, self.version)
    }

    /// A new connection, if the shim has not ended.
    pub fn try_connect(&self) -> Option<Shim> {
        Shim::try_at(&self.socket, self.version).ok()
    }

    /// The request that creates the container.
    pub fn create_request(&self) -> CreateTaskRequest {
        let mut request = CreateTaskRequest::new();
        request.id.clone_from(&self.id);
        request.bundle = self.path().display().to_string();
        request
    }

    /// The processes of the shim: their command lines name the container.
    pub fn processes(&self) -> Vec<Process> {
        if shared() {
            return managers(&self.address);
        }
        processes().into_iter().filter(|process| process.command.contains(&self.id)).collect()
    }

    /// The shim's daemon.
    pub fn daemon(&self) -> Process {
        self.processes().into_iter().next().expect("the daemon runs")
    }

    /// Waits until neither the shim nor its socket exists. A manager stays.
    pub fn wait_gone(&self, deadline: std::time::Duration) {
        if shared() {
            return;
        }
        wait_until("neither shim nor socket", deadline, || {
            self.processes().is_empty() && !self.socket.exists()
        });
    }
}
