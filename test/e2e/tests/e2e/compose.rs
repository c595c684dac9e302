//! `docker compose`: wasm and native services side by side in one project.

use std::fs;
use std::path::Path;
use wherry_e2e::images::{cat, hello, spin};
use wherry_e2e::tests_in;
use wherry_testing::{
    DEADLINE, Daemon, Docker, Image, Leftovers, Outcome, Run, busybox, runtime, wait_until,
};

/// A compose project in a folder of its own.
struct Project<'d> {
    docker: &'d Docker,
    folder: tempfile::TempDir,
}

impl Project<'_> {
    fn compose(&self, words: &[&str]) -> Outcome {
        let file = self.file();
        let all = [&["compose", "--file", &file, "--project-name", "promise"], words].concat();
        self.docker.docker(&all)
    }

    fn file(&self) -> String {
        let path: &Path = self.folder.path();
        path.join("compose.yaml").display().to_string()
    }
}

fn a_project_of_wasm_and_native_services_runs(docker: &Docker) {
    let reference = |image: &Image| {
        let packed = image.pack();
        docker.load(&packed);
        packed.reference
    };
    let (guest, once, native) = (reference(&spin()), reference(&hello()), reference(&busybox()));
    // What a daemon's first container leaves is no leftover.
    docker.run(&Run::new(&cat()).stdin("")).success();
    let leftovers = Leftovers::snapshot(docker);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let project = Project { docker, folder };
    let kind = runtime();
    let text = format!(
        r#"
services:
  guest:
    image: {guest}
    runtime: {kind}
    pull_policy: never
    environment: {{COLOUR: green}}
  once:
    image: {once}
    runtime: {kind}
    pull_policy: never
    depends_on: [guest]
  native:
    image: {native}
    pull_policy: never
    init: false
    command: ["sh", "-c", "echo native; exec sleep 1000000"]
    stop_signal: SIGKILL
    depends_on:
      once: {{condition: service_completed_successfully}}
"#
    );
    fs::write(project.file(), text).expect("it is writable");
    project.compose(&["up", "--detach"]).success();
    let logs = |service: &str| project.compose(&["logs", "--no-log-prefix", service]).success();
    for (service, said) in [("guest", "ready\n"), ("once", "hello\n"), ("native", "native\n")] {
        wait_until(&format!("the log of {service}"), DEADLINE, || {
            // Older ones clear the line first, also where there is no terminal.
            logs(service).trim_start_matches("\u{1b}[2K") == said
        });
    }
    let listed = |status: &str| {
        let words = ["ps", "--all", "--services", "--filter", &format!("status={status}")];
        let mut services: Vec<String> =
            project.compose(&words).success().lines().map(str::to_owned).collect();
        services.sort();
        services
    };
    assert_eq!(listed("running"), ["guest", "native"]);
    assert_eq!(listed("exited"), ["once"]);
    let id = project.compose(&["ps", "--quiet", "guest"]).success();
    let (id, field) = (id.trim(), "{{.HostConfig.Runtime}}");
    assert_eq!(docker.inspect(id, field), Some(kind));
    project.compose(&["stop", "--timeout", "60", "guest"]).success();
    assert_eq!(docker.inspect(id, "{{.State.ExitCode}}").as_deref(), Some("143"));
    project.compose(&["down", "--timeout", "60"]).success();
    assert_eq!(project.compose(&["ps", "--all", "--quiet"]).success(), "");
    leftovers.assert_none_new();
}

tests_in!(
    docker_26,
    &Docker::start(DockerVersion::V26),
    a_project_of_wasm_and_native_services_runs
);
tests_in!(
    docker_28,
    &Docker::start(DockerVersion::V28),
    a_project_of_wasm_and_native_services_runs
);
