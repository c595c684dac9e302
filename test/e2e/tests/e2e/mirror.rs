//! `wherry-node mirror`: containerd pulls an artifact of WebAssembly by its tag, and gets an image
//! that runs. All other requests pass through.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use wherry_e2e::cri::{Cri, Member};
use wherry_e2e::images::hello_wasm;
use wherry_e2e::on_containerds;
use wherry_testing::registry::{Demands, PASSWORD, USER};
use wherry_testing::{
    Containerd, DEADLINE, Outcome, Registry, bin_dir, busybox, call, runtime, wait_until,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The credentials of a registry that demands some, as a header has them.
const BASIC: &str = "Authorization: Basic cmVhZGVyOnNlY3JldA==\r\n";

/// A running mirror, with the folder of its `hosts.toml`. It ends with this value.
struct Mirror {
    process: Child,
    address: String,
    folder: TempDir,
}

impl Mirror {
    /// Mirrors a registry without TLS.
    fn start(registry: &str) -> Mirror {
        Mirror::start_with(&["--registry", registry, "--plain-http", registry])
    }

    fn start_with(options: &[&str]) -> Mirror {
        let folder = TempDir::new().expect("a temporary folder");
        // Another process may take the port before the mirror does: the test fails then.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let mut command = Command::new(bin_dir().join("wherry-node"));
        command.args(["mirror", "--listen", &address, "--timeout", "2", "--hosts-dir"]);
        command.arg(folder.path().join("certs.d")).args(options).stdin(Stdio::null());
        let log = File::create(folder.path().join("log")).expect("ours");
        command.stderr(log.try_clone().expect("ours")).stdout(log);
        let mirror = Mirror { process: command.spawn().expect("it runs"), address, folder };
        wait_until("the mirror listens", DEADLINE, || TcpStream::connect(&mirror.address).is_ok());
        mirror
    }

    fn hosts(&self) -> String {
        self.folder.path().join("certs.d").display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends a request. Returns the status, the head and the body.
    fn request(&self, method: &str, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let accept = format!("Accept: {MANIFEST}, {INDEX}\r\n");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n{accept}{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head, answer[end..].to_vec())
    }

    /// Gets a document.
    fn get(&self, path: &str) -> Value {
        let (status, head, body) = self.request("GET", path, "");
        assert_eq!(status, 200, "{path}: {head}");
        serde_json::from_slice(&body).expect("JSON")
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls `wherry image`.
fn wherry(folder: &Path, words: &[&str]) -> Outcome {
    wherry_by(Command::new(bin_dir().join("wherry")), folder, words)
}

/// Calls `wherry image` with the credentials of registries that demand some, if the folder has
/// them.
fn wherry_by(mut command: Command, folder: &Path, words: &[&str]) -> Outcome {
    command.arg("image").args(words).arg("--plain-http").current_dir(folder);
    command.env("DOCKER_CONFIG", folder).env("XDG_CACHE_HOME", folder.join("downloads"));
    call(command, None)
}

/// Pushes the module that prints "hello\n" as an artifact. Returns its digest.
fn push(name: &str) -> String {
    push_with(name, Command::new(bin_dir().join("wherry")))
}

fn push_with(name: &str, command: Command) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let host = name.split('/').next().expect("a registry");
    let auths = json!({"auths": {host: {"auth": "cmVhZGVyOnNlY3JldA=="}}});
    fs::write(folder.path().join("config.json"), auths.to_string()).expect("ours");
    fs::write(folder.path().join("hello.wasm"), hello_wasm()).expect("ours");
    let words = ["build", "hello.wasm", "--tag", name, "--artifact", "--to", "registry", "--json"];
    let pushed: Value =
        serde_json::from_str(&wherry_by(command, folder.path(), &words).success()).expect("JSON");
    pushed["digest"].as_str().expect("a digest").to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Pulls through a mirror.
fn pull(containerd: &Containerd, mirror: &Mirror, name: &str, options: &[&str]) -> Outcome {
    let hosts = mirror.hosts();
    let words = [&["images", "pull", "--hosts-dir", &hosts], options, &[name]].concat();
    containerd.ctr(&words)
}

fn run(containerd: &Containerd, name: &str) -> Outcome {
    let id = containerd.new_id();
    let outcome = containerd.ctr(&["run", "--rm", "--runtime", &runtime(), name, &id]);
    containerd.ctr(&["containers", "rm", &id]);
    outcome
}

fn an_artifact_of_a_private_registry_runs_by_its_tag(containerd: &Containerd) {
    let registry = Registry::start_with(Demands { credentials: true, ..Demands::default() });
    let name = format!("{}/my/hello:1", registry.address());
    push(&name);
    let mirror = Mirror::start(registry.address());
    let refused = pull(containerd, &mirror, &name, &[]).failure();
    assert!(refused.to_lowercase().contains("auth") || refused.contains("401"), "{refused}");
    let user = format!("{USER}:{PASSWORD}");
    pull(containerd, &mirror, &name, &["--user", &user]).success();
    assert_eq!(run(containerd, &name).success(), "hello\n");
    // A second pull finds the same image.
    pull(containerd, &mirror, &name, &["--user", &user]).success();
}

fn an_ordinary_image_passes_unchanged(containerd: &Containerd) {
    let registry = Registry::shared();
    let name = format!("{}/native-{}:1", registry.address(), containerd.namespace());
    let folder = TempDir::new().expect("a temporary folder");
    busybox().pack_to(&folder.path().join("native.tar"), &name);
    wherry(folder.path(), &["push", "native.tar", &name]).success();
    let mirror = Mirror::start(registry.address());
    pull(containerd, &mirror, &name, &[]).success();
    let id = containerd.new_id();
    let words =
        ["run", "--rm", "--runtime", "io.containerd.runc.v2", &name, &id, "/bin/busybox", "true"];
    containerd.ctr(&words).success();
}

fn a_pod_runs_an_artifact_by_its_tag_with_its_pull_secret(cri: &Cri) {
    let containerd = cri.containerd();
    let demands = Demands { credentials: true, ..Demands::default() };
    let registry = Registry::start_beside(containerd, demands);
    let name = format!("{}/pod/hello:1", registry.address());
    push_with(&name, containerd.in_network(&bin_dir().join("wherry")));
    let mut command = containerd.in_network(&bin_dir().join("wherry-node"));
    command.args(["mirror", "--registry", registry.address(), "--plain-http", registry.address()]);
    command.arg("--hosts-dir").arg(containerd.hosts_dir()).stdout(Stdio::piped());
    let mut mirror = command.spawn().expect("it runs");
    let mut lines = BufReader::new(mirror.stdout.take().expect("piped")).lines();
    let listens = lines.any(|line| line.is_ok_and(|line| line.starts_with("mirroring ")));
    assert!(listens, "the mirror has ended");
    let denied = cri.pull(&name, USER, "wrong").expect_err("the password is wrong");
    assert!(denied.contains("auth") || denied.contains("401"), "{denied}");
    cri.pull(&name, USER, PASSWORD).expect("it is pulled");
    let mut pod = cri.pod("mirrored");
    let id = pod.run(&Member::stored("hello", &name));
    assert_eq!(pod.wait(&id).exit_code, 0);
    pod.wait_for_log("hello", "stdout F hello\n");
    pod.remove();
    // It may have ended by itself.
    let _ = mirror.kill();
    let _ = mirror.wait();
}

on_containerds!(
    an_artifact_of_a_private_registry_runs_by_its_tag,
    an_ordinary_image_passes_unchanged,
);

mod kubernetes {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    wherry_e2e::on_containerd_versions!(
        version => ::wherry_e2e::cri::Cri::shared(version);
        a_pod_runs_an_artifact_by_its_tag_with_its_pull_secret,
    );
}

#[test]
fn each_mirror_makes_the_same_image_and_leaves_digests_alone() {
    let registry = Registry::shared();
    let name = format!("{}/mirrored:1", registry.address());
    let original = push(&name);
    let query = format!("ns={}", registry.address());
    let tag = format!("/v2/mirrored/manifests/1?{query}");
    let mirrors = [Mirror::start(registry.address()), Mirror::start(registry.address())];
    let roots: Vec<Vec<u8>> =
        mirrors.iter().map(|mirror| mirror.request("GET", &tag, "").2).collect();
    assert_eq!(roots[0], roots[1]);
    let mirror = &mirrors[0];
    let (status, head, body) = mirror.request("HEAD", &tag, "");
    let digest = sha256(&roots[0]);
    assert!(status == 200 && body.is_empty(), "{head}");
    assert!(head.contains(&format!("docker-content-digest: {digest}")), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", roots[0].len())), "{head}");
    // Every document and blob of the image is there, under its digest.
    let index: Value = serde_json::from_slice(&roots[0]).expect("JSON");
    let path = |kind: &str, digest: &Value| {
        format!("/v2/mirrored/{kind}/{}?{query}", digest.as_str().expect("a digest"))
    };
    let platforms: Vec<&str> = index["manifests"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|manifest| manifest["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(platforms, ["wasm", "amd64", "arm64", "unknown"]);
    for manifest in index["manifests"].as_array().expect("a list").iter().take(3) {
        let manifest = mirror.get(&path("manifests", &manifest["digest"]));
        let layer = &manifest["layers"][0];
        for blob in [&manifest["config"], layer] {
            let (status, head, body) = mirror.request("GET", &path("blobs", &blob["digest"]), "");
            assert_eq!(
                (status, sha256(&body)),
                (200, blob["digest"].as_str().unwrap().to_owned()),
                "{head}"
            );
        }
        let range =
            mirror.request("GET", &path("blobs", &layer["digest"]), "Range: bytes=512-\r\n");
        let size = layer["size"].as_u64().expect("a size");
        assert_eq!((range.0, range.2.len() as u64), (206, size - 512), "{}", range.1);
    }
    // The original is itself.
    let (_, _, body) = mirror.request("GET", &path("manifests", &json!(original)), "");
    assert_eq!(sha256(&body), original);
    assert_eq!(
        mirror.get(&path("manifests", &json!(original)))["layers"][0]["mediaType"],
        "application/wasm"
    );
    // Another registry, another method, and no such tag.
    assert_eq!(mirror.request("GET", "/v2/a/manifests/1?ns=other.example", "").0, 404);
    assert_eq!(mirror.request("DELETE", &tag, "").0, 405);
    assert_eq!(mirror.request("GET", &tag.replace("/1?", "/2?"), "").0, 404);
}

#[test]
fn converted_content_is_for_those_who_may_read_the_original() {
    let registry = Registry::start_with(Demands { credentials: true, ..Demands::default() });
    push(&format!("{}/secret:1", registry.address()));
    let mirror = Mirror::start(registry.address());
    let query = format!("ns={}", registry.address().replace(':', "%3A"));
    let tag = format!("/v2/secret/manifests/1?{query}");
    let (status, head, _) = mirror.request("GET", &tag, "");
    assert!(status == 401 && head.contains("www-authenticate: basic"), "{head}");
    let (status, _, root) = mirror.request("GET", &tag, BASIC);
    assert_eq!(status, 200);
    let index: Value = serde_json::from_slice(&root).expect("JSON");
    let manifest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let path = format!("/v2/secret/manifests/{manifest}?{query}");
    assert_eq!(mirror.request("GET", &path, BASIC).0, 200);
    let (status, head, body) = mirror.request("GET", &path, "");
    assert!(status == 401 && body.is_empty(), "{head}");
    // Nor under another name.
    let other = path.replace("/v2/secret/", "/v2/other/");
    assert_eq!(mirror.request("GET", &other, BASIC).0, 404);
}

#[test]
fn a_registry_that_fails_is_named_in_the_answer_and_in_the_log() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let stalled = listener.local_addr().expect("it is bound").to_string();
    let mirror = Mirror::start(&stalled);
    let (status, _, body) = mirror.request("GET", "/v2/a/manifests/1", "");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(status == 502 && text.contains(&format!("{stalled}: the registry stalled")), "{text}");
    assert!(mirror.log().contains("the registry stalled"), "{}", mirror.log());
}

#[test]
fn a_mirror_is_reached_from_this_machine_alone() {
    let mut command = Command::new(bin_dir().join("wherry-node"));
    command.args(["mirror", "--registry", "a.example", "--listen", "0.0.0.0:0"]);
    let error = call(command, None).failure();
    assert!(error.contains("0.0.0.0:0 is not an address of loopback"), "{error}");
}

#[test]
fn an_artifact_that_cannot_be_converted_passes_with_a_line_in_the_log() {
    let registry = Registry::shared();
    let folder = TempDir::new().expect("a temporary folder");
    let name = format!("{}/two-modules:1", registry.address());
    let layout = two_modules(folder.path());
    wherry(folder.path(), &["push", &layout.display().to_string(), &name]).success();
    let mirror = Mirror::start(registry.address());
    let manifest = mirror.get("/v2/two-modules/manifests/1");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2));
    assert!(mirror.log().contains("not converted: the artifact has 2 layers"), "{}", mirror.log());
}

/// An OCI layout of an artifact with two modules.
fn two_modules(folder: &Path) -> PathBuf {
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("ours");
    let add = |media_type: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(blobs.join(&digest[7..]), bytes).expect("ours");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let wasm = hello_wasm();
    let layers = [add("application/wasm", &wasm), add("application/wasm", &wasm[..8])];
    let config = add("application/vnd.wasm.config.v0+json", b"{}");
    let content =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let manifest = add(MANIFEST, content.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("ours");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("ours");
    layout
}
