//! critest, the conformance tests of CRI, and the images that it asks for.

use crate::registry::Registry;
use crate::{Cluster, Node};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;
use wherry_testing::{Image, call, call_within, daemon_bin, guests};

/// After this time critest ends by itself, and its report and log name the specification that ran.
/// Alone it takes 80 to 110 s; here two of them run beside other tests.
const LIMIT: Duration = Duration::from_secs(600);

/// How specifications ended, by their names: a failure with its message.
pub type Results = BTreeMap<String, Result<(), String>>;

/// Runs critest's specifications with a runtime handler on a node without a kubelet, and returns
/// how each ended that was not skipped.
pub fn run(cluster: &Cluster, node: &Node, handler: &str) -> Results {
    let root = node.machine().root();
    let images = root.join("critest.yaml");
    let text = "defaultTestContainerImage: registry.k8s.io/e2e-test-images/busybox:1.29-2\n\
                webServerTestImage: registry.k8s.io/e2e-test-images/nginx:1.14-2\n";
    fs::write(&images, text).expect("the folder is writable");
    let (report, log) = (root.join("critest.json"), root.join("critest.log"));
    let script = format!(
        "mkdir -p /var/empty && cd /var/empty && {}/critest \
         --runtime-endpoint unix:///run/containerd/containerd.sock --runtime-handler {handler} \
         --test-images-file {} --ginkgo.no-color --ginkgo.timeout={}s \
         --ginkgo.json-report={} > {} 2>&1",
        cluster.programs().display(),
        images.display(),
        LIMIT.as_secs(),
        report.display(),
        log.display(),
    );
    // It ends with an error where one of them fails, which the caller judges.
    let command = node.machine().command(&["bash", "-c", &script]);
    call_within(command, None, LIMIT + Duration::from_secs(60));
    let text = fs::read(&report).unwrap_or_else(|e| {
        panic!("critest wrote no report: {e}\n{}", crate::machine::end_of(&log))
    });
    let report: Value = serde_json::from_slice(&text).expect("critest's report is JSON");
    let mut found = BTreeMap::new();
    for spec in report[0]["SpecReports"].as_array().into_iter().flatten() {
        if spec["LeafNodeType"] != "It" || spec["State"] == "skipped" || spec["State"] == "pending"
        {
            continue;
        }
        let above = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
        let words = above.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str);
        let name = words.collect::<Vec<_>>().join(" / ");
        let passed = spec["State"] == "passed";
        // The output has the steps with their times, and the failure in its place.
        let failure = || {
            let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let message = text(&spec["Failure"]["Message"]);
            format!("{message}\n{}", text(&spec["CapturedGinkgoWriterOutput"]))
        };
        found.insert(name, if passed { Ok(()) } else { Err(failure()) });
    }
    found
}

/// Adds critest's images to the registry.
pub(crate) fn add_images(registry: &Registry) {
    let e2e = |name: &str| format!("registry.k8s.io/e2e-test-images/{name}");
    let staging = |name: &str| format!("gcr.io/k8s-staging-cri-tools/{name}");
    let shell = || base().cmd(&["sh"]);
    let mark = |text: &str| shell().file("/mark", 0o644, text);
    let nginx = |port: &str| {
        let server = base().file("/usr/sbin/nginx", 0o755, guests::bytes("httpd.static"));
        server.folder("/var/run", 0o1777).cmd(&["nginx", port])
    };
    registry.add(&e2e("busybox:1.29-2"), &shell());
    registry.add(&e2e("nginx:1.14-2"), &nginx("80"));
    registry.add(&e2e("httpd:2.4.39-4"), &nginx("80"));
    registry.add(&staging("hostnet-nginx-amd64:latest"), &nginx("12003"));
    let program = guests::bytes("euid.static");
    registry
        .add(&e2e("nonewprivs:1.3"), &base().file("/euid", 0o4755, program).entrypoint(&["/euid"]));
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:users"),
        ("username-group", "www-data:100"),
    ] {
        let image = mark(name).user(user);
        registry.add(&staging(&format!("test-image-user-{name}:latest")), &image);
    }
    registry.add(&staging("test-image-predefined-group:latest"), &mark("group").user("1000"));
    for name in ["latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"] {
        registry.add(&staging(&format!("test-image-{name}")), &mark(name));
    }
    for tag in 1..=3 {
        registry.add(&staging(&format!("test-image-tags:{tag}")), &mark("tags"));
    }
    let pause = Image::new("pause").file("/pause", 0o755, guests::bytes("pause.static"));
    let pause = pause.entrypoint(&["/pause"]).user("65535:65535");
    for tag in ["3.9", "3.10.1", "3.10.2"] {
        registry.add(&format!("registry.k8s.io/pause:{tag}"), &pause);
    }
}

/// A busybox with all its names and the users that critest expects.
fn base() -> Image {
    let path = daemon_bin("busybox").join("busybox");
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut list = Command::new(&path);
    list.arg("--list");
    let mut image = Image::new("critest").file("/bin/busybox", 0o755, bytes);
    // Not symbolic links: a specification masks the path of one program alone.
    for name in call(list, None).success().lines().filter(|&name| name != "busybox") {
        image = image.hard_link(&format!("/bin/{name}"), "/bin/busybox");
    }
    image
        // Debian's busybox lacks these two.
        .file("/bin/pgrep", 0o755, "#!/bin/sh\nexec pidof \"$1\"\n")
        .file("/bin/ipcs", 0o755, "#!/bin/sh\ncat /proc/sysvipc/shm\n")
        .folder("/tmp", 0o1777)
        .folder("/root", 0o755)
        .folder("/home", 0o755)
        .folder("/dev", 0o755)
        .folder("/proc", 0o755)
        .folder("/sys", 0o755)
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
             default-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )
        .file(
            "/etc/group",
            0o644,
            "root:x:0:\nwww-data:x:33:\nusers:x:100:\ndefault-user:x:1000:\n\
             group-defined-in-image:x:50000:default-user\nnobody:x:65534:\n",
        )
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}
