//! The folders of `examples/`: their build commands, and the images of their Dockerfiles.

use std::fs;
use std::path::Path;
use std::process::Command;
use wherry_e2e::needs::has;
use wherry_e2e::{on_dockers, tests_in};
use wherry_testing::{
    Capability, DEADLINE, Daemon, Docker, Image, Packed, Run, busybox, cache_dir, call, can,
    examples, runtime, wait_until,
};

/// Runs the `docker run` line of an example's README.
fn greets(docker: &Docker, folder: &str, language: &str) {
    let run = Run::new(&examples::image(folder)).args(&["a", "b"]).env("COLOUR", "green");
    let said = docker.run(&run).success();
    assert_eq!(said, format!("Hello from {language} a b\nCOLOUR is green\n"));
}

fn hello_in_rust_runs(docker: &Docker) {
    greets(docker, "rust", "Rust");
}

fn hello_in_go_runs(docker: &Docker) {
    greets(docker, "go", "Go");
}

fn hello_in_c_runs(docker: &Docker) {
    greets(docker, "c", "C");
}

fn hello_in_python_runs(docker: &Docker) {
    greets(docker, "python", "Python");
}

on_dockers!(hello_in_rust_runs, hello_in_go_runs, hello_in_c_runs, hello_in_python_runs);

/// The programs that the Dockerfiles call.
const TOOLS: &[&str] = &["apt-get", "clang", "componentize-py", "go", "pip", "rustc", "rustup"];

/// A stand-in for a base image: a shell, and for each tool a script that writes the prebuilt module
/// to the argument of `-o`.
fn base(module: Vec<u8>) -> Image {
    let script = "#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  [ \"$1\" != -o ] || cat /module > \"$2\"\n  \
                  shift\ndone\n";
    let image = busybox().file("/module", 0o644, module).folder("/tmp", 0o1777);
    TOOLS.iter().fold(image, |image, tool| image.file(&format!("/bin/{tool}"), 0o755, script))
}

/// The base images are stand-ins, because the tests have no registry.
fn docker_builds_the_dockerfiles(docker: &Docker) {
    let mut languages = vec![("rust", "Rust"), ("c", "C")];
    languages.extend(has("go").then_some(("go", "Go")));
    languages.extend(can(Capability::Components).then_some(("python", "Python")));
    for (folder, language) in languages {
        let file = examples::dockerfile(folder);
        let module = examples::output(folder, &file.copies[0].0);
        load(docker, &base(module).pack(), &file.base);
        let name = format!("built-{folder}");
        let path = examples::folder(folder).display().to_string();
        docker.docker(&["build", "--tag", &name, &path]).success();
        let run = ["run", "--rm", "--runtime", &runtime(), &name, "a", "b"];
        assert_eq!(docker.docker(&run).success(), format!("Hello from {language} a b\n"));
    }
}

/// The path of the host's busybox, for the network namespace in which Docker publishes ports.
fn host_busybox() -> String {
    cache_dir().join("daemons/busybox/bin/busybox").display().to_string()
}

fn a_tcp_server_answers_on_its_published_port(docker: &Docker) {
    let run = Run::new(&examples::image("tcp")).extra(&["--publish", "127.0.0.1::7000"]);
    let container = docker.start(&run);
    container.wait_for_output("listening on port 7000\n");
    let port = docker.docker(&["port", container.id(), "7000/tcp"]).success();
    let port = port.trim().rsplit(':').next().expect("a port").to_owned();
    let script = format!("echo hello | {} nc -w 10 127.0.0.1 {port}", host_busybox());
    wait_until("an answer", DEADLINE, || docker.beside(&["sh", "-c", &script]).out() == "HELLO\n");
}

fn a_web_server_greets_and_keeps_an_access_log(docker: &Docker) {
    let log = tempfile::TempDir::new().expect("a temporary folder");
    let volume = format!("{}:/log", log.path().display());
    let options = ["--publish", "127.0.0.1::8080", "--hostname", "web", "--volume", &volume];
    let run = Run::new(&examples::image("web")).extra(&options);
    let container = docker.start(&run.env("ACCESS_LOG", "/log/access.log"));
    container.wait_for_output("listening on port 8080\n");
    let port = docker.docker(&["port", container.id(), "8080/tcp"]).success();
    let url = format!("http://{}/visit", port.trim());
    let busybox = host_busybox();
    let get = || docker.beside(&[&busybox, "wget", "-q", "-O", "-", &url]);
    wait_until("a greeting", DEADLINE, || get().out() == "hello from web\n");
    let log = fs::read_to_string(log.path().join("access.log")).expect("the log exists");
    assert!(log.ends_with("GET /visit HTTP/1.1\n"), "{log}");
}

fn the_steps_of_a_workflow_share_a_volume(docker: &Docker) {
    let work = tempfile::TempDir::new().expect("a temporary folder");
    let volume = format!("{}:/work", work.path().display());
    let image = examples::image("steps");
    let step =
        |words: &[&str]| docker.run(&Run::new(&image).extra(&["--volume", &volume]).args(words));
    step(&["generate", "100"]).success();
    assert_eq!(step(&["add"]).success(), "the sum is 5050\n");
    assert_eq!(step(&["verify", "5050"]).success(), "verified: 5050\n");
    let wrong = step(&["verify", "1"]);
    assert_eq!((wrong.code, wrong.out().as_str()), (3, "the sum is 5050, expected 1\n"), "{wrong}");
}

/// Debian's Redis, as the image `redis:7` of the example.
fn redis() -> Image {
    let mut image = Image::new("redis").folder("/tmp", 0o1777).env("PATH", "/usr/bin").cmd(&[
        "redis-server",
        "--protected-mode",
        "no",
        "--dir",
        "/tmp",
        "--save",
        "",
    ]);
    for (from, name) in [("redis-check-rdb", "redis-server"), ("redis-cli", "redis-cli")] {
        let path = Path::new("/usr/bin").join(from);
        let mut ldd = Command::new("ldd");
        ldd.arg(&path);
        // A line is "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)", or the path of the
        // loader.
        let libraries = call(ldd, None).success();
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries {
            image = image.file(library, 0o755, fs::read(library).expect("a library"));
        }
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        image = image.file(&format!("/usr/bin/{name}"), 0o755, bytes);
    }
    image
}

/// Loads an image under the name that a compose file gives it.
fn load(docker: &Docker, image: &Packed, name: &str) {
    docker.load(image);
    docker.docker(&["tag", &image.reference, name]).success();
}

fn a_guest_counts_in_a_native_database(docker: &Docker) {
    load(docker, &examples::image("compose").pack(), "counter");
    load(docker, &redis().pack(), "redis:7");
    let file = examples::folder("compose").join("compose.yaml").display().to_string();
    let name = format!("example-{}", docker.containerd().new_id());
    let compose = |words: &[&str]| {
        docker.docker(&[&["compose", "--file", &file, "--project-name", &name], words].concat())
    };
    compose(&["up", "--detach", "--no-build", "--pull", "never"]).success();
    let busybox = host_busybox();
    let get = || docker.beside(&[&busybox, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    wait_until("an answer", DEADLINE, || get().out().starts_with("visitor "));
    let number = |text: String| text.trim().trim_start_matches("visitor ").parse::<u64>();
    let one = number(get().success()).expect("a number");
    let two = number(get().success()).expect("a number");
    assert_eq!(two, one + 1);
    compose(&["down", "--timeout", "60"]).success();
    assert_eq!(compose(&["ps", "--all", "--quiet"]).success(), "");
}

// On one version of Docker: other tests cover Compose and the network of each version, and each
// version would compile the modules again, which takes seconds.
mod one_version {
    use super::*;

    tests_in!(
        docker_28,
        Docker::shared(DockerVersion::V28),
        docker_builds_the_dockerfiles,
        a_tcp_server_answers_on_its_published_port,
        a_web_server_greets_and_keeps_an_access_log,
        the_steps_of_a_workflow_share_a_volume,
        a_guest_counts_in_a_native_database
    );
}
