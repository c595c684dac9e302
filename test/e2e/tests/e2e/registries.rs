//! `wherry image` and registries: private authorities, credentials, signatures, and registries that
//! misbehave. Each failure is one sentence.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use wherry_e2e::images::hello_wasm;
use wherry_testing::registry::{Demands, PASSWORD, USER};
use wherry_testing::{Action, Outcome, Proxy, Registry, Request, bin_dir, call};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The folder of a user, with a module and Docker's configuration.
struct User {
    folder: TempDir,
}

impl User {
    fn new() -> User {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("hello.wasm"), hello_wasm()).expect("ours");
        User { folder }
    }

    fn wherry(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(bin_dir().join("wherry"));
        command.arg("image").args(words).current_dir(self.folder.path());
        let path = self.folder.path().display();
        command
            .env("PATH", format!("{path}:/usr/bin:/bin"))
            .env("DOCKER_CONFIG", self.folder.path());
        command.env("XDG_CACHE_HOME", self.folder.path().join("downloads"));
        call(command, None)
    }

    /// Pushes an artifact, with these options. Returns its digest.
    fn push(&self, name: &str, options: &[&str]) -> String {
        let words =
            ["build", "hello.wasm", "--tag", name, "--artifact", "--to", "registry", "--json"];
        let said = self.wherry(&[&words[..], options].concat()).success();
        let pushed: Value = serde_json::from_str(&said).expect("JSON");
        pushed["digest"].as_str().expect("a digest").to_owned()
    }

    /// Pulls into a layout.
    fn pull(&self, name: &str, options: &[&str]) -> Outcome {
        self.wherry(&[&["pull", name, "--to", "./pulled"], options].concat())
    }
}

/// The only line of an error.
fn sentence(outcome: &Outcome) -> String {
    let text = outcome.failure();
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("wherry: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_owned()
}

#[test]
fn a_private_authority_is_named_by_an_option() {
    let registry = Registry::start_with(Demands { tls: true, ..Demands::default() });
    let (user, name) = (User::new(), format!("{}/private:1", registry.address()));
    let authority = registry.authority().display().to_string();
    let options = ["--certificate", &authority];
    user.push(&name, &options);
    user.pull(&name, &options).success();
    let error = sentence(&user.pull(&name, &["--retries", "0"]));
    assert!(error.contains(&format!("cannot connect to {}", registry.address())), "{error}");
    assert!(error.ends_with("; --certificate names the file of its authority"), "{error}");
}

#[test]
fn a_registry_without_tls_takes_an_option() {
    let (user, registry) = (User::new(), Registry::shared());
    let name = format!("{}/plain:1", registry.address());
    user.push(&name, &["--plain-http"]);
    user.pull(&name, &["--plain-http"]).success();
    let error = sentence(&user.pull(&name, &["--retries", "0"]));
    assert!(error.ends_with("; --plain-http connects without TLS"), "{error}");
}

#[test]
fn credentials_are_those_of_docker_and_its_helpers() {
    let registry = Registry::start_with(Demands { credentials: true, ..Demands::default() });
    let (user, address) = (User::new(), registry.address());
    let (name, plain) = (format!("{address}/secret:1"), ["--plain-http"]);
    let configuration = user.folder.path().join("config.json");
    let configure = |value: Value| fs::write(&configuration, value.to_string()).expect("ours");
    let error = sentence(&user.pull(&name, &plain));
    assert!(error.contains("the registry refused access"), "{error}");
    assert!(error.contains(&format!("`docker login {address}` stores new ones")), "{error}");

    // "reader:secret" in base64.
    configure(json!({"auths": {address: {"auth": "cmVhZGVyOnNlY3JldA=="}}}));
    user.push(&name, &plain);

    let helper = user.folder.path().join("docker-credential-tests");
    let say = |answer: &str| {
        // It reads the registry's name.
        let script =
            format!("#!/bin/sh\nread server\nprintf '%s\\n' \"$server\" >> asked\n{answer}\n");
        fs::write(&helper, script).expect("ours");
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("ours");
    };
    configure(json!({"credHelpers": {address: "tests"}}));
    let secret = json!({"ServerURL": address, "Username": USER, "Secret": PASSWORD});
    say(&format!("printf '%s' '{secret}'"));
    user.pull(&name, &plain).success();
    let asked = fs::read_to_string(user.folder.path().join("asked")).expect("it was asked");
    assert_eq!(asked.lines().next(), Some(address));

    say("echo 'the keyring is locked'; exit 1");
    let error = sentence(&user.pull(&name, &plain));
    assert!(error.contains(&format!("cannot get the credentials for {address}: ")), "{error}");
    assert!(error.contains("the keyring is locked"), "{error}");
}

#[test]
fn an_expired_token_is_one_sentence() {
    let user = User::new();
    // Its own server of tokens gives one that it then does not accept.
    let proxy = Proxy::start(Registry::shared().address(), |request, _| {
        if request.path.starts_with("/token") {
            return Action::Answer(
                200,
                String::new(),
                r#"{"token":"old","expires_in":60}"#.to_owned(),
            );
        }
        let host = request.header("host").unwrap_or_default();
        let error =
            if request.header("authorization").is_some() { ",error=\"invalid_token\"" } else { "" };
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"tests\",scope=\"repository:a:pull\"{error}\r\n"
        );
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"token expired"}]}"#;
        Action::Answer(401, challenge, body.to_owned())
    });
    let name = format!("{}/a:1", proxy.address());
    let error = sentence(&user.pull(&name, &["--plain-http"]));
    assert!(error.starts_with(&format!("wherry: {name}: the registry refused access")), "{error}");
    assert!(error.contains("expired"), "{error}");
    let with_token = |request: &Request| {
        request.header("authorization").is_some_and(|value| value.contains("old"))
    };
    assert!(proxy.requests().iter().any(with_token), "{:?}", proxy.requests());
}

#[test]
fn a_registry_that_stalls_is_given_up() {
    let (user, registry) = (User::new(), Registry::shared());
    user.push(&format!("{}/stalls:1", registry.address()), &["--plain-http"]);
    let proxy = Proxy::start(registry.address(), |request, _| {
        if request.path.contains("/blobs/") { Action::Stall } else { Action::Pass }
    });
    let name = format!("{}/stalls:1", proxy.address());
    let error = sentence(&user.pull(&name, &["--plain-http", "--timeout", "1", "--retries", "0"]));
    let expected = "the registry stalled: nothing arrived for 1 s; --timeout waits longer";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_broken_download_continues_where_it_was() {
    let (user, registry) = (User::new(), Registry::shared());
    // A custom section of 100,000 bytes, with its name.
    let large = [hello_wasm(), vec![0, 0xa0, 0x8d, 0x06, 1, b'x'], vec![7; 99_998]].concat();
    fs::write(user.folder.path().join("hello.wasm"), &large).expect("ours");
    user.push(&format!("{}/broken:1", registry.address()), &["--plain-http"]);
    let digest = format!("sha256:{:x}", Sha256::digest(&large));
    let layer = digest.clone();
    let proxy = Proxy::start(registry.address(), move |request, earlier| {
        let cut = request.method == "GET" && request.path.ends_with(&layer) && earlier == 0;
        if cut { Action::Cut(50_000) } else { Action::Pass }
    });
    let name = format!("{}/broken:1", proxy.address());
    // The first call fails, and the second continues.
    user.pull(&name, &["--plain-http", "--retries", "0"]).failure();
    user.pull(&name, &["--plain-http", "--retries", "0"]).success();
    let requests = proxy.requests();
    let ranges: Vec<Option<&str>> = requests
        .iter()
        .filter(|request| request.path.ends_with(&digest))
        .map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges[0], None);
    let start =
        ranges[1].and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    assert!(start.is_some_and(|start: u64| start > 40_000 && start < 50_000), "{ranges:?}");
}

/// Writes an OCI layout with one document, and the empty configuration that it names.
fn write_layout(folder: &Path, media_type: &str, content: &Value) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("ours");
    let add = |bytes: &[u8]| {
        let digest = format!("{:x}", Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).expect("ours");
        (format!("sha256:{digest}"), bytes.len())
    };
    add(b"{}");
    let (digest, size) = add(content.to_string().as_bytes());
    let root = json!({"mediaType": media_type, "digest": digest, "size": size});
    let index = json!({"schemaVersion": 2, "manifests": [root]});
    fs::write(folder.join("index.json"), index.to_string()).expect("ours");
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("ours");
}

/// A manifest without layers.
fn manifest(more: &[(&str, Value)]) -> Value {
    let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let kind = "application/vnd.oci.empty.v1+json";
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": kind, "digest": empty, "size": 2},
    });
    for (key, value) in more {
        manifest[*key] = value.clone();
    }
    manifest
}

#[test]
fn a_signature_of_cosign_is_shown_in_both_forms() {
    let (user, registry) = (User::new(), Registry::shared());
    let plain = ["--plain-http"];
    let signed = |name: &str| {
        let words = ["inspect", name, "--plain-http", "--json"];
        let said = user.wherry(&words).success();
        let value: Value = serde_json::from_str(&said).expect("JSON");
        value["signed"].clone()
    };
    let push = |content: &Value, media_type: &str, name: &str| {
        let folder = TempDir::new().expect("a temporary folder");
        write_layout(folder.path(), media_type, content);
        user.wherry(&["push", &folder.path().display().to_string(), name, "--plain-http"])
            .success();
    };
    // A tag that cosign derives from the digest.
    let repository = format!("{}/signed-tag", registry.address());
    let digest = user.push(&format!("{repository}:1"), &plain);
    assert_eq!(signed(&format!("{repository}:1")), json!(false));
    let tag = format!("{}.sig", digest.replace(':', "-"));
    push(&manifest(&[]), MANIFEST, &format!("{repository}:{tag}"));
    assert_eq!(signed(&format!("{repository}:1")), json!(true));
    let text = user.wherry(&["inspect", &format!("{repository}:1"), "--plain-http"]).success();
    assert!(text.contains("signature:  ") && !text.contains("signature:  none"), "{text}");

    // A referrer: of a registry with that API, which the tests' registry lacks, and without.
    let repository = format!("{}/signed-referrer", registry.address());
    let digest = user.push(&format!("{repository}:1"), &plain);
    let kind = "application/vnd.dev.cosign.artifact.sig.v1+json";
    let entry = json!({"mediaType": MANIFEST, "digest": digest, "size": 2, "artifactType": kind});
    let referrers = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let answer = referrers.to_string();
    let proxy = Proxy::start(registry.address(), move |request, _| {
        if !request.path.contains("/referrers/sha256:") {
            return Action::Pass;
        }
        Action::Answer(200, format!("Content-Type: {INDEX}\r\n"), answer.clone())
    });
    assert_eq!(signed(&format!("{repository}:1")), json!(false));
    assert_eq!(signed(&format!("{}/signed-referrer:1", proxy.address())), json!(true));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": digest, "size": 2, "artifactType": kind},
    ]});
    push(&index, INDEX, &format!("{repository}:{}", digest.replace(':', "-")));
    assert_eq!(signed(&format!("{repository}:1")), json!(true));
}
