//! `wherry image`: modules, artifacts and images with layers of WebAssembly run like images, after
//! a way through a registry into the store of each daemon.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use wherry_e2e::cri::{Cri, Member, NAMESPACE};
use wherry_e2e::images::hello_wasm;
use wherry_e2e::{on_containerds, on_dockers};
use wherry_testing::{
    Containerd, Daemon, Docker, Outcome, Registry, bin_dir, busybox, call, daemon_bin, runtime,
};

/// The media types of a layer that is WebAssembly.
const WASM: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A daemon whose store `wherry image` fills.
trait Store: Daemon {
    /// The options that name the store.
    fn options(&self) -> Vec<String>;
    /// The words of a client that run an image.
    fn run_named(&self, name: &str) -> Outcome;

    /// A call of `wherry image`. Its client programs are those of this daemon.
    fn wherry(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(bin_dir().join("wherry"));
        command.arg("image").args(words);
        let path = daemon_bin(&Daemon::name(self)).display().to_string();
        command.env("PATH", format!("{path}:/usr/bin:/bin"));
        let socket = self.containerd().root().join("d.sock");
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        // Without credentials and with a private folder of downloads.
        command.env("DOCKER_CONFIG", self.containerd().root().join("no-configuration"));
        command.env("XDG_CACHE_HOME", self.containerd().root().join("downloads"));
        call(command, None)
    }

    /// A call that reads from the registry and stores an image.
    fn stored(&self, words: &[&str]) -> Outcome {
        let options = self.options();
        let mut all = words.to_vec();
        all.push("--plain-http");
        all.extend(options.iter().map(String::as_str));
        self.wherry(&all)
    }
}

impl Store for Containerd {
    fn options(&self) -> Vec<String> {
        let address = self.address().display().to_string();
        ["--address", &address, "--namespace", self.namespace()].map(str::to_owned).to_vec()
    }

    fn run_named(&self, name: &str) -> Outcome {
        let id = self.new_id();
        let outcome = self.ctr(&["run", "--rm", "--runtime", &runtime(), name, &id]);
        self.ctr(&["containers", "rm", &id]);
        outcome
    }
}

impl Store for Docker {
    fn options(&self) -> Vec<String> {
        ["--to", "docker"].map(str::to_owned).to_vec()
    }

    fn run_named(&self, name: &str) -> Outcome {
        self.docker(&["run", "--rm", "--pull", "never", "--runtime", &runtime(), name])
    }
}

/// A file of the module that prints "hello\n", in a folder.
fn hello_in(folder: &TempDir) -> String {
    let path = folder.path().join("hello.wasm");
    fs::write(&path, hello_wasm()).expect("it is writable");
    path.display().to_string()
}

/// A name in the registry that no other test uses.
fn name(store: &impl Store, what: &str) -> String {
    let id = store.containerd().new_id();
    format!("{}/{what}-{}-{id}:1", Registry::shared().address(), store.containerd().namespace())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Writes an OCI layout with one manifest of these layers.
fn write_layout(folder: &Path, config: (&str, &Value), layers: &[(&str, &[u8])]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("it is writable");
    let add = |media_type: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(blobs.join(&digest[7..]), bytes).expect("it is writable");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let config = add(config.0, config.1.to_string().as_bytes());
    let layers: Vec<Value> =
        layers.iter().map(|(media_type, bytes)| add(media_type, bytes)).collect();
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let content = json!({
        "schemaVersion": 2, "mediaType": manifest, "config": config, "layers": layers,
    });
    let manifest = add(manifest, content.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(folder.join("index.json"), index.to_string()).expect("it is writable");
    let mark = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs::write(folder.join("oci-layout"), mark).expect("it is writable");
}

fn image_config(diff_ids: &[String]) -> Value {
    json!({
        "os": "wasi", "architecture": "wasm",
        "config": {"Entrypoint": ["/opt/app.wasm"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

fn a_built_image_runs(store: &impl Store) {
    let folder = TempDir::new().expect("a temporary folder");
    let (file, name) = (hello_in(&folder), name(store, "built"));
    store.stored(&["build", &file, "--tag", &name]).success();
    assert_eq!(store.run_named(&name).success(), "hello\n");
}

fn an_artifact_runs_under_its_name_after_a_pull(store: &impl Store) {
    let folder = TempDir::new().expect("a temporary folder");
    let (file, name) = (hello_in(&folder), name(store, "artifact"));
    let words = ["build", &file, "--tag", &name, "--artifact", "--label", "some.key=value"];
    let push = [&words[..], &["--to", "registry", "--plain-http", "--json"]].concat();
    let pushed: Value = serde_json::from_str(&store.wherry(&push).success()).expect("JSON");
    let inspected = store.wherry(&["inspect", &name, "--plain-http"]).success();
    assert!(inspected.contains("artifact, ") && inspected.contains("runs on "), "{inspected}");
    store.stored(&["pull", &name]).success();
    assert_eq!(store.run_named(&name).success(), "hello\n");
    // The original is still there.
    let layout = folder.path().join("layout").display().to_string();
    let kind = if store.is_docker() { "docker" } else { "containerd" };
    let stored = format!("{kind}:{name}");
    let options = store.options();
    let mut words = vec!["convert", "--artifact", &stored, "--json"];
    if !store.is_docker() {
        words.extend(options.iter().map(String::as_str));
    }
    words.extend(["--to", &layout]);
    let converted: Value = serde_json::from_str(&store.wherry(&words).success()).expect("JSON");
    // Docker up to 28 exports the manifests that it can run only: the artifact is made again.
    if !store.is_docker() {
        assert_eq!(converted["digest"], pushed["digest"]);
    }
}

/// Layers, by their media types.
type Layers<'l> = Vec<(&'l str, &'l [u8])>;

fn images_with_layers_of_wasm_run_after_a_pull(store: &impl Store) {
    let wasm = hello_wasm();
    let folder = TempDir::new().expect("a temporary folder");
    let mut cases: Vec<(Layers<'_>, Vec<String>)> =
        WASM.iter().map(|media_type| (vec![(*media_type, &*wasm)], vec![digest(&wasm)])).collect();
    cases.push((vec![(WASM[0], &wasm)], Vec::new()));
    let tar = tar_of("etc/below", b"below\n");
    cases.push((vec![(TAR, &tar), (WASM[0], &wasm)], vec![digest(&tar), digest(&wasm)]));
    for (number, (layers, diff_ids)) in cases.iter().enumerate() {
        let layout = folder.path().join(format!("layout-{number}"));
        let config = image_config(diff_ids);
        write_layout(&layout, ("application/vnd.oci.image.config.v1+json", &config), layers);
        let name = name(store, &format!("wasm{number}"));
        let layout = layout.display().to_string();
        store.wherry(&["push", &layout, &name, "--plain-http"]).success();
        store.stored(&["pull", &name]).success();
        assert_eq!(store.run_named(&name).success(), "hello\n", "{number}");
    }
}

fn artifacts_of_other_tools_run_after_a_pull(store: &impl Store) {
    let wasm = hello_wasm();
    let folder = TempDir::new().expect("a temporary folder");
    let cases = [
        // wasm-to-oci
        ("application/vnd.wasm.config.v1+json", WASM[1]),
        // The image specification for Envoy.
        ("application/vnd.module.wasm.config.v1+json", WASM[3]),
        // `oras push FILE:application/wasm`, and `oras push FILE`.
        ("application/vnd.oci.empty.v1+json", WASM[0]),
        ("application/vnd.oci.empty.v1+json", TAR),
    ];
    for (number, (config, layer)) in cases.iter().enumerate() {
        let layout = folder.path().join(format!("layout-{number}"));
        write_layout(&layout, (config, &json!({})), &[(layer, &wasm)]);
        let name = name(store, &format!("other{number}"));
        let layout = layout.display().to_string();
        store.wherry(&["push", &layout, &name, "--plain-http"]).success();
        store.stored(&["pull", &name]).success();
        assert_eq!(store.run_named(&name).success(), "hello\n", "{config} {layer}");
    }
}

fn a_native_image_keeps_its_name(store: &impl Store) {
    let name = name(store, "native");
    let folder = TempDir::new().expect("a temporary folder");
    let archive = folder.path().join("native.tar");
    busybox().pack_to(&archive, &name);
    let archive = archive.display().to_string();
    // An ordinary image is pushed and pulled as it is.
    store.wherry(&["push", &archive, &name, "--plain-http"]).success();
    store.stored(&["pull", &name]).success();
    let file = hello_in(&folder);
    let refused = store.stored(&["build", &file, "--tag", &name]).failure();
    assert!(refused.contains("has a native image of the name"), "{refused}");
    store.stored(&["build", &file, "--tag", &name, "--force"]).success();
    assert_eq!(store.run_named(&name).success(), "hello\n");
}

fn a_pod_runs_an_artifact_that_was_pulled(cri: &Cri) {
    let folder = TempDir::new().expect("a temporary folder");
    let store = cri.containerd();
    let (file, name) = (hello_in(&folder), name(store, "pod"));
    let words = ["build", &file, "--tag", &name, "--artifact", "--to", "registry", "--plain-http"];
    store.wherry(&words).success();
    let address = store.address().display().to_string();
    let words = ["pull", &name, "--plain-http", "--address", &address, "--namespace", NAMESPACE];
    store.wherry(&words).success();
    let mut pod = cri.pod("published");
    let id = pod.run(&Member::stored("hello", &name));
    assert_eq!(pod.wait(&id).exit_code, 0);
    pod.wait_for_log("hello", "stdout F hello\n");
    pod.remove();
}

/// An archive of one file.
fn tar_of(path: &str, content: &[u8]) -> Vec<u8> {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join(path);
    fs::create_dir_all(file.parent().expect("it has one")).expect("it is writable");
    fs::write(&file, content).expect("it is writable");
    let mut command = Command::new("tar");
    command.arg("-C").arg(folder.path()).args(["-cf", "-", path]);
    command.output().expect("tar runs").stdout
}

on_containerds!(
    a_built_image_runs,
    an_artifact_runs_under_its_name_after_a_pull,
    images_with_layers_of_wasm_run_after_a_pull,
    artifacts_of_other_tools_run_after_a_pull,
    a_native_image_keeps_its_name,
);
on_dockers!(
    a_built_image_runs,
    an_artifact_runs_under_its_name_after_a_pull,
    images_with_layers_of_wasm_run_after_a_pull,
    artifacts_of_other_tools_run_after_a_pull,
    a_native_image_keeps_its_name,
);
mod kubernetes {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    wherry_e2e::on_containerd_versions!(
        version => ::wherry_e2e::cri::Cri::shared(version);
        a_pod_runs_an_artifact_that_was_pulled,
    );
}
