//! The shim's executable, called as containerd calls it: its information commands, and damaged
//! bundles.

use containerd_shim_protos::api::{Empty, ShutdownRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use wherry_e2e::direct::{Direct, NAMESPACE, call as shim};
use wherry_e2e::images::hello_wasm;
use wherry_e2e::needs::are_met;
use wherry_e2e::shim::Shim;
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Process, bin_dir, engine, processes, remove_cgroup,
    runtime, shim_program, wait_until,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The engine's executables.
fn names() -> [String; 3] {
    let engine = engine();
    [shim_program(), format!("wherry-{engine}"), format!("wherry-{engine}-host")]
}

#[test]
fn the_version_is_told() {
    let output = shim(&["-v"], b"", Path::new("/"));
    assert!(output.status.success());
    let said = text(&output.stdout);
    let head = format!("{}:\n  Version:  {VERSION}\n  Engine:   ", runtime());
    assert!(said.starts_with(&head) && !said.contains("unknown"), "{said}");
    assert_eq!(text(&output.stderr), "");
}

/// An attacker who can write to the memory of a process finds no fixed address and no table of
/// functions to replace.
#[test]
fn executables_have_no_fixed_address_and_their_relocated_data_is_read_only() {
    for name in names() {
        let path = bin_dir().join(&name);
        let output = Command::new("readelf").arg("-hldW").arg(path).output().expect("it runs");
        let said = text(&output.stdout);
        let line = |what: &str| {
            let found = said.lines().find(|line| line.trim_start().starts_with(what));
            found.unwrap_or_else(|| panic!("{name} has no {what}: {said}"))
        };
        assert!(line("Type:").contains("DYN"), "{name}: {said}");
        assert!(line("GNU_STACK").contains(" RW  "), "{name}: {said}");
        line("GNU_RELRO");
        assert!(said.contains("Flags: NOW PIE"), "{name}: {said}");
        assert!(!said.contains("TEXTREL"), "{name}: {said}");
    }
}

/// A question gets no usage error.
#[test]
fn every_executable_answers_for_help_and_its_version() {
    let mut engines = Vec::new();
    for name in names() {
        let ask = |flag: &str| {
            let output = Command::new(bin_dir().join(&name)).arg(flag).output().expect("it runs");
            assert!(output.status.success(), "{name} {flag}: {}", text(&output.stderr));
            assert_eq!(text(&output.stderr), "", "{name} {flag}");
            text(&output.stdout)
        };
        let version = ask("--version");
        assert!(version.contains(VERSION), "{version}");
        assert_eq!(ask("-v"), version, "{name}");
        let (_, engine) = version.split_once("ngine").expect("the engine's version");
        let engine = engine.trim_start_matches(':').trim().lines().next().expect("a line");
        engines.push(engine.to_owned());
        let help = ask("--help");
        assert_eq!(ask("-h"), help, "{name}");
        assert!(help.contains(engine), "{help}");
    }
    assert!(engines.iter().all(|engine| *engine == engines[0]), "{engines:?}");
    // It has no engine.
    for (flag, part) in
        [("-v", VERSION), ("--version", VERSION), ("-h", "Usage:"), ("--help", "Usage:")]
    {
        let program = bin_dir().join("wherry-node");
        let output = Command::new(program).arg(flag).output().expect("it runs");
        assert!(output.status.success(), "wherry-node {flag}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part), "wherry-node {flag}");
    }
}

/// What containerd and its CRI plug-in read, in the form that `runc features` has.
#[test]
fn the_features_are_those_that_kubernetes_asks_for() {
    let output = shim(&["-info"], b"", Path::new("/"));
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).expect("a RuntimeInfo");
    let features: serde_json::Value =
        serde_json::from_slice(&info.features.value).expect("JSON of the features");
    let has = |pointer: &str, item: &str| {
        let list = features.pointer(pointer).and_then(|list| list.as_array());
        assert!(list.is_some_and(|list| list.iter().any(|one| one == item)), "{pointer}: {item}");
    };
    has("/mountOptions", "rro");
    has("/linux/namespaces", "user");
    has("/linux/capabilities", "CAP_NET_BIND_SERVICE");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    has("/linux/seccomp/operators", "SCMP_CMP_EQ");
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    assert_eq!(features["linux"]["cgroup"]["systemd"], true);
    assert_eq!(features["linux"]["apparmor"]["enabled"], true);
}

/// containerd 2.3 and later write one message to `start` in place of options.
#[test]
fn a_start_by_the_bootstrap_protocol_is_answered_in_its_format_and_has_its_options() {
    if !are_met(
        module_path!(),
        "a_start_by_the_bootstrap_protocol_is_answered_in_its_format_and_has_its_options",
    ) {
        return;
    }
    let containerd = Containerd::shared(ContainerdVersion::V2);
    let mut direct = Direct::start(containerd, "bootstrap", &hello_wasm());
    let stop = |direct: &Direct| {
        let id = direct.id().to_owned();
        let request = ShutdownRequest { id, ..ShutdownRequest::new() };
        let _: Empty = direct.connect().call("Shutdown", &request).expect("Shutdown answers");
        direct.wait_gone(DEADLINE);
    };
    stop(&direct);
    let cgroup = format!("/{NAMESPACE}/shims-{}", std::process::id());
    let options = Options { shim_cgroup: cgroup.clone(), ..Options::new() };
    let mut any = Any::new();
    any.type_url = "containerd.runc.v1.Options".to_owned();
    any.value = options.write_to_bytes().expect("a complete message");
    let sockets = direct.path().join("s");
    let params = BootstrapParams {
        instance_id: direct.id().to_owned(),
        namespace: NAMESPACE.to_owned(),
        containerd_version: "2.4.0".to_owned(),
        socket_dir: Some(sockets.display().to_string()),
        extensions: vec![Extension { value: Some(any).into(), ..Extension::new() }],
        ..BootstrapParams::new()
    };
    let stdin = params.write_to_bytes().expect("a complete message");
    direct.start_again(&stdin);
    assert_eq!(direct.socket().parent(), Some(&*sockets));
    let daemon = direct.daemon().pid;
    let joined = || fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap_or_default();
    wait_until("the shim's cgroup", DEADLINE, || joined().contains(&cgroup));
    // The second container of a pod gets the same answer.
    let output = direct.command("start", &stdin);
    let result = BootstrapResult::parse_from_bytes(&output.stdout).expect("a BootstrapResult");
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert_eq!(result.address, format!("unix://{}", direct.socket().display()));
    stop(&direct);
    remove_cgroup(&cgroup);
}

/// When memory is short, the kernel kills a shim before the containerd that has started it.
#[test]
fn the_shims_oom_score_is_containerds_plus_one() {
    let score = |pid: &str| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
        text.trim().parse().expect("a number")
    };
    let containerd = Containerd::shared(ContainerdVersion::V2);
    let direct = Direct::start(containerd, "oom-score", &hello_wasm());
    let daemon = direct.daemon().pid.to_string();
    let wanted = (score("self") + 1).min(1000);
    wait_until("the daemon's score", DEADLINE, || score(&daemon) == wanted);
    let id = direct.id().to_owned();
    let request = ShutdownRequest { id, ..ShutdownRequest::new() };
    let _: Empty = direct.connect().call("Shutdown", &request).expect("Shutdown answers");
    direct.wait_gone(DEADLINE);
}

/// containerd 2 asks with the runtime's options as it has them: none, or of either kind.
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
fn a_bundle_without_a_configuration_is_that_of_a_pod() {
    if !are_met(module_path!(), "a_bundle_without_a_configuration_is_that_of_a_pod") {
        return;
    }
    let bundle = Bundle::new("missing");
    let socket = bundle.socket_of_an_intact_one();
    fs::remove_file(bundle.config()).expect("it is there");
    // Create fails without it: see `api`.
    assert_eq!(bundle.socket_of_an_intact_one(), socket);
}

#[test]
fn a_configuration_that_is_cut_off_is_one_sentence() {
    if !are_met(module_path!(), "a_configuration_that_is_cut_off_is_one_sentence") {
        return;
    }
    let bundle = Bundle::new("cut-off");
    let socket = bundle.socket_of_an_intact_one();
    for text in ["", "{", r#"{"ociVersion": "1.1.0", "process": {"args": ["/app.wa"#, "not JSON"] {
        fs::write(bundle.config(), text).expect("it is writable");
        bundle.assert_refused(&socket);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_one_sentence() {
    if !are_met(module_path!(), "a_configuration_that_cannot_be_read_is_one_sentence") {
        return;
    }
    let bundle = Bundle::new("unreadable");
    let socket = bundle.socket_of_an_intact_one();
    fs::remove_file(bundle.config()).expect("it is there");
    fs::create_dir(bundle.config()).expect("it is writable");
    bundle.assert_refused(&socket);
}
