//! A containerd whose manager has settings, and the operator's view of that manager.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempPath;
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Outcome, Process, bin_dir, call, engine, managers,
    wait_until,
};

/// A containerd, and the settings of the managers that it starts.
pub struct Managed {
    /// The containerd.
    pub containerd: Containerd,
    file: TempPath,
}

impl Managed {
    /// Starts a containerd whose managers have these settings.
    pub fn start(version: ContainerdVersion, settings: &str) -> Managed {
        Managed::start_with(version, settings, &[])
    }

    /// As [`Managed::start`], with more variables in containerd's environment.
    pub fn start_with(
        version: ContainerdVersion,
        settings: &str,
        variables: &[(&str, &str)],
    ) -> Managed {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
        let file = file.into_temp_path();
        let path = file.display().to_string();
        let variables = [variables, &[("WHERRY_MANAGER_CONFIG", &*path)]].concat();
        let containerd = Containerd::start_with(version, &variables);
        let managed = Managed { containerd, file };
        managed.set(settings);
        managed
    }

    /// Replaces the settings.
    pub fn set(&self, settings: &str) {
        fs::write(&self.file, settings).expect("the file is writable");
    }

    /// The file of settings.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its entry in the output of `status --json`; none if it has no manager.
    pub fn status(&self) -> Option<Value> {
        let address = self.containerd.address().display().to_string();
        let all: Value =
            serde_json::from_str(&operator(&["status", "--json"]).out()).expect("JSON");
        let mut all = all["managers"].as_array().expect("a list").iter();
        all.find(|one| one["address"] == *address).cloned()
    }

    /// The metrics, from the control socket.
    pub fn metrics(&self) -> String {
        let status = self.status().expect("a manager");
        let path = status["controlSocket"].as_str().expect("a path");
        get(UnixStream::connect(path).expect("the manager listens"))
    }
}

/// Calls the executable of the manager as its operator.
pub fn operator(args: &[&str]) -> Outcome {
    let program = format!("containerd-shim-{}d-v1", engine());
    let mut command = Command::new(bin_dir().join(program));
    command.args(args);
    call(command, None)
}

/// The answer to a request for metrics on a port.
pub fn get_port(port: u16) -> String {
    get(TcpStream::connect(("127.0.0.1", port)).expect("the manager listens"))
}

/// The answer to a request for metrics, with its headers.
fn get(mut stream: impl Read + Write) -> String {
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("the manager reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the manager answers");
    text
}

/// The value of a series in an answer with metrics.
///
/// # Panics
/// If it is not there.
#[track_caller]
pub fn series(answer: &str, name: &str) -> f64 {
    let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{name} is not in\n{answer}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

/// The manager of this containerd.
///
/// # Panics
/// If it has none, or several.
pub fn manager(containerd: &Containerd) -> Process {
    let mut all = managers(&containerd.address());
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// Ends a process, and waits until it is gone.
pub fn kill(pid: i32) {
    signal(pid, "KILL");
    wait_until("the end of a process", DEADLINE, || Process::of(pid).is_none());
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {pid}");
}
