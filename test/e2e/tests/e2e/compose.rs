//! `docker compose`: wasm and native services side by side in one project.

use std::fs;
use std::path::Path;
use wherry_e2e::images::{cat, hello, net, spin};
use wherry_e2e::{on_dockers, on_own_dockers};
use wherry_testing::{
    DEADLINE, Daemon, Docker, Image, Leftovers, Outcome, Run, busybox, runtime, wait_until,
};

/// A compose project in a private folder.
struct Project<'d> {
    docker: &'d Docker,
    name: String,
    folder: tempfile::TempDir,
}

impl<'d> Project<'d> {
    fn new(docker: &'d Docker, text: &str) -> Project<'d> {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let name = format!("project-{}", docker.containerd().new_id());
        let project = Project { docker, name, folder };
        fs::write(project.file(), text).expect("it is writable");
        project
    }

    fn compose(&self, words: &[&str]) -> Outcome {
        let file = self.file();
        let all = [&["compose", "--file", &file, "--project-name", &self.name], words].concat();
        self.docker.docker(&all)
    }

    /// The log of a service.
    fn logs(&self, service: &str) -> String {
        let said = self.compose(&["logs", "--no-log-prefix", service]).success();
        // Older versions clear the line first, even without a terminal.
        said.trim_start_matches("\u{1b}[2K").to_owned()
    }

    /// The services in a state, sorted.
    fn services(&self, status: &str) -> Vec<String> {
        let status = format!("status={status}");
        let words = ["ps", "--all", "--services", "--filter", &status];
        let mut services: Vec<String> =
            self.compose(&words).success().lines().map(str::to_owned).collect();
        services.sort();
        services
    }

    /// The containers of a service.
    fn ids(&self, service: &str) -> Vec<String> {
        let ids = self.compose(&["ps", "--quiet", service]).success();
        ids.lines().map(str::to_owned).collect()
    }

    fn file(&self) -> String {
        let path: &Path = self.folder.path();
        path.join("compose.yaml").display().to_string()
    }
}

/// Loads an image and returns its name.
fn reference(docker: &Docker, image: &Image) -> String {
    let packed = image.pack();
    docker.load(&packed);
    packed.reference
}

fn a_project_of_wasm_and_native_services_runs(docker: &Docker) {
    let [guest, once, native] = [spin(), hello(), busybox()].map(|image| reference(docker, &image));
    // The lasting effects of a daemon's first container do not count as leftovers.
    docker.run(&Run::new(&cat()).stdin("")).success();
    let leftovers = Leftovers::snapshot(docker);
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
    let project = Project::new(docker, &text);
    project.compose(&["up", "--detach"]).success();
    for (service, said) in [("guest", "ready\n"), ("once", "hello\n"), ("native", "native\n")] {
        wait_until(&format!("the log of {service}"), DEADLINE, || project.logs(service) == said);
    }
    assert_eq!(project.services("running"), ["guest", "native"]);
    assert_eq!(project.services("exited"), ["once"]);
    let id = project.ids("guest").concat();
    let (id, field) = (id.as_str(), "{{.HostConfig.Runtime}}");
    assert_eq!(docker.inspect(id, field), Some(kind));
    project.compose(&["stop", "--timeout", "60", "guest"]).success();
    assert_eq!(docker.inspect(id, "{{.State.ExitCode}}").as_deref(), Some("143"));
    project.compose(&["down", "--timeout", "60"]).success();
    assert_eq!(project.compose(&["ps", "--all", "--quiet"]).success(), "");
    leftovers.assert_none_new();
}

mod own {
    use super::*;

    on_own_dockers!(a_project_of_wasm_and_native_services_runs);
}

/// Services wait for the health of each other and find each other by name, in both directions.
fn services_talk_by_name_once_they_are_healthy(docker: &Docker) {
    let (guest, native, kind) =
        (reference(docker, &net()), reference(docker, &busybox()), runtime());
    let wasm = format!("{{image: {guest}, runtime: {kind}, pull_policy: never}}");
    let native =
        format!("{{image: {native}, pull_policy: never, stop_signal: SIGKILL, init: false}}");
    let project = Project::new(
        docker,
        &format!(
            r#"
x-wasm: &wasm {wasm}
x-native: &native {native}
x-often: &often {{interval: 200ms, start_period: 60s, start_interval: 200ms}}
services:
  wasm-server:
    <<: *wasm
    command: [tcp-serve, "7000"]
    healthcheck:
      <<: *often
      test: [CMD, /app.wasm, tcp-get, 127.0.0.1, "7000"]
  native-server:
    <<: *native
    command: [nc, -ll, -p, "7000", -e, cat]
    healthcheck:
      <<: *often
      test: [CMD, sh, -c, "echo x | nc 127.0.0.1 7000"]
  wasm-client:
    <<: *wasm
    command: [tcp-get, native-server, "7000"]
    depends_on:
      native-server: {{condition: service_healthy}}
  native-client:
    <<: *native
    command: [sh, -c, "echo hello to wasm | nc wasm-server 7000"]
    depends_on:
      wasm-server: {{condition: service_healthy}}
"#
        ),
    );
    project.compose(&["up", "--detach"]).success();
    wait_until("both clients' ends", DEADLINE, || {
        project.services("exited") == ["native-client", "wasm-client"]
    });
    assert_eq!(project.logs("wasm-client"), "hello over tcp\n");
    assert_eq!(project.logs("native-client"), "hello to wasm\n");

    // Exec in a running service.
    let exec = |service: &str, words: &[&str]| {
        project.compose(&[&["exec", "--no-TTY", service], words].concat())
    };
    let get = ["/app.wasm", "tcp-get", "native-server", "7000"];
    assert_eq!(exec("wasm-server", &get).success(), "hello over tcp\n");

    // The name stays valid after a restart, which may change the address.
    let started = |id: &str| docker.inspect(id, "{{.State.StartedAt}}");
    let before = project.ids("wasm-server");
    let then = started(&before.concat());
    project.compose(&["restart", "--timeout", "60", "wasm-server"]).success();
    assert_eq!(project.ids("wasm-server"), before);
    assert_ne!(started(&before.concat()), then);
    let script = "echo after all | nc wasm-server 7000";
    wait_until("an answer after the restart", DEADLINE, || {
        exec("native-server", &["sh", "-c", script]).out() == "after all\n"
    });

    // Several containers of one service are several addresses of one name.
    for count in [3, 1] {
        project.compose(&["scale", "--no-deps", &format!("wasm-server={count}")]).success();
        assert_eq!(project.ids("wasm-server").len(), count);
        let found = exec("wasm-server", &["/app.wasm", "lookup", "wasm-server"]).success();
        let addresses: std::collections::BTreeSet<&str> = found.lines().collect();
        assert_eq!(addresses.len(), count, "{found}");
    }
    project.compose(&["down", "--timeout", "60"]).success();
    assert_eq!(project.compose(&["ps", "--all", "--quiet"]).success(), "");
}

on_dockers!(services_talk_by_name_once_they_are_healthy);
