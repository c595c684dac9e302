//! The shim's executable, called as containerd calls it: its information commands, and damaged
//! bundles.

use containerd_shim_protos::api::{Empty, ShutdownRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use wherry_e2e::shim::Shim;
use wherry_testing::{DEADLINE, Process, bin_dir, engine, processes, runtime, wait_until};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Calls the shim with these arguments and this standard input, in this folder.
fn shim(args: &[&str], stdin: &[u8], folder: &Path) -> Output {
    let mut command = Command::new(bin_dir().join(format!("containerd-shim-{}-v1", engine())));
    command.args(args).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the shim runs");
    // The shim may exit without reading it.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    // Returns at the end of both outputs, as containerd does: a daemon must not keep them open.
    child.wait_with_output().expect("our own child")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_version_is_told() {
    let output = shim(&["-v"], b"", Path::new("/"));
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), format!("{}:\n  Version:  {VERSION}\n", runtime()));
    assert_eq!(text(&output.stderr), "");
}

/// containerd 2 passes the runtime options of its configuration: none, or of either type.
#[test]
fn the_runtime_is_described_whatever_its_options() {
    let any = |url: &str, value: Vec<u8>| {
        let any = Any { type_url: url.to_owned(), value, ..Any::new() };
        any.write_to_bytes().expect("a complete message")
    };
    let options = Options { systemd_cgroup: true, ..Options::new() };
    let options = options.write_to_bytes().expect("a complete message");
    // `runtimeoptions.v1.Options`: its third field is TOML.
    let body = "SystemdCgroup = true\nKeyOfAnotherRuntime = 1\n";
    let generic = [&[0x1a, u8::try_from(body.len()).expect("short")], body.as_bytes()].concat();
    for stdin in [
        Vec::new(),
        any("containerd.runc.v1.Options", options),
        any("runtimeoptions.v1.Options", generic),
        any("another.runtime.v7.Options", vec![1, 2, 3]),
    ] {
        let output = shim(&["-info"], &stdin, Path::new("/"));
        assert!(output.status.success(), "{stdin:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{stdin:?}");
        let info = RuntimeInfo::parse_from_bytes(&output.stdout).expect("a RuntimeInfo");
        assert_eq!((info.name.as_str(), info.version.version.as_str()), (&*runtime(), VERSION));
    }
}

/// A bundle in a temporary folder, for a container with a unique id.
struct Bundle {
    folder: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new(what: &str) -> Bundle {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("rootfs")).expect("it is writable");
        Bundle { folder, id: format!("{what}-{}", std::process::id()) }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    /// `start`, as containerd calls it.
    fn start(&self) -> Output {
        let address = self.folder.path().join("containerd.sock").display().to_string();
        let words = ["-namespace", "none", "-address", &address, "-publish-binary", "/bin/true"];
        shim(&[&words[..], &["-id", &self.id, "start"]].concat(), b"", self.folder.path())
    }

    fn shims(&self) -> Vec<Process> {
        processes().into_iter().filter(|process| process.command.contains(&self.id)).collect()
    }

    /// Starts the shim of an intact bundle and shuts it down; returns the path of its socket.
    fn socket_of_an_intact_one(&self) -> PathBuf {
        fs::write(self.config(), r#"{"ociVersion": "1.1.0"}"#).expect("it is writable");
        let output = self.start();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let json: Option<serde_json::Value> = serde_json::from_str(&said).ok();
        let (address, version) = match &json {
            Some(json) => (json["address"].as_str().expect("an address"), &json["version"]),
            None => (said.as_str(), &serde_json::Value::Null),
        };
        let socket = PathBuf::from(address.trim().trim_start_matches("unix://"));
        assert!(socket.exists(), "{said}");
        assert!(!self.shims().is_empty(), "no process is there for {}", self.id);
        let version = u32::try_from(version.as_u64().unwrap_or(2)).expect("a version");
        let request = ShutdownRequest { id: self.id.clone(), ..ShutdownRequest::new() };
        let _: Empty = Shim::at(&socket, version).call("Shutdown", &request).expect("it answers");
        self.wait_gone(&socket);
        socket
    }

    fn wait_gone(&self, socket: &Path) {
        wait_until("neither shim nor socket", DEADLINE, || {
            self.shims().is_empty() && !socket.exists()
        });
    }

    /// Asserts that the current bundle is refused with one sentence that names its configuration.
    fn assert_refused(&self, socket: &Path) {
        let output = self.start();
        assert!(!output.status.success());
        // containerd reads both outputs, and shows their content.
        let said = text(&[output.stdout, output.stderr].concat());
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&self.config().display().to_string()), "{said}");
        self.wait_gone(socket);
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).expect("it is there").flatten().collect();
        let new = names
            .iter()
            .map(fs::DirEntry::file_name)
            .filter(|name| !["config.json", "rootfs", "address"].iter().any(|known| name == known));
        assert_eq!(new.count(), 0, "{names:?}");
    }
}

#[test]
fn a_missing_configuration_is_one_sentence() {
    let bundle = Bundle::new("missing");
    let socket = bundle.socket_of_an_intact_one();
    fs::remove_file(bundle.config()).expect("it is there");
    bundle.assert_refused(&socket);
}

#[test]
fn a_configuration_that_is_cut_off_is_one_sentence() {
    let bundle = Bundle::new("cut-off");
    let socket = bundle.socket_of_an_intact_one();
    for text in ["", "{", r#"{"ociVersion": "1.1.0", "process": {"args": ["/app.wa"#, "not JSON"] {
        fs::write(bundle.config(), text).expect("it is writable");
        bundle.assert_refused(&socket);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_one_sentence() {
    let bundle = Bundle::new("unreadable");
    let socket = bundle.socket_of_an_intact_one();
    fs::remove_file(bundle.config()).expect("it is there");
    fs::create_dir(bundle.config()).expect("it is writable");
    bundle.assert_refused(&socket);
}
