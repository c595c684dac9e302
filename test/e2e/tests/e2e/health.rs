//! HEALTHCHECK of an image whose probe is another module.

use serde_json::Value;
use std::fs;
use wherry_e2e::images::kit;
use wherry_e2e::on_dockers;
use wherry_testing::{Container, DEADLINE, Daemon, Docker, Image, Run, guests, wait_until};

/// A sleeping guest, and the kit with these arguments as a probe.
fn image(probe: &[&str]) -> Image {
    kit(false)
        .cmd(&["sleep", "100000"])
        .file("/probe.wasm", 0o755, guests::bytes("kit.wasm"))
        .folder("/state", 0o755)
        .healthcheck(probe)
}

fn wait_for_health(docker: &Docker, container: &Container<'_>, wanted: &str) {
    wait_until(&format!("it is {wanted}"), DEADLINE, || {
        docker.inspect(container.id(), "{{.State.Health.Status}}").as_deref() == Some(wanted)
    });
}

/// The newest result of the probe.
fn last_probe(docker: &Docker, container: &Container<'_>) -> Value {
    let text = docker.inspect(container.id(), "{{json .State.Health.Log}}").expect("it is there");
    let log: Value = serde_json::from_str(&text).expect("JSON");
    log.as_array().and_then(|log| log.last()).expect("a result").clone()
}

fn health_follows_what_the_probe_finds(docker: &Docker) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let fine = folder.path().join("fine");
    fs::write(&fine, "all is well\n").expect("it is writable");
    let run =
        Run::new(&image(&["/probe.wasm", "read", "/state/fine"])).bind(folder.path(), "/state");
    let container = docker.start(&run);
    wait_for_health(docker, &container, "healthy");
    assert_eq!(last_probe(docker, &container)["Output"], "all is well\n");
    fs::remove_file(&fine).expect("it is there");
    wait_for_health(docker, &container, "unhealthy");
    let failed = last_probe(docker, &container);
    assert_eq!(failed["ExitCode"], 1);
    assert!(failed["Output"].as_str().is_some_and(|text| text.contains("/state/fine")), "{failed}");
    let filter = ["ps", "--quiet", "--no-trunc", "--filter", "health=unhealthy"];
    assert!(docker.docker(&filter).success().contains(container.id()));
    fs::write(&fine, "again\n").expect("it is writable");
    wait_for_health(docker, &container, "healthy");
    assert!(!container.ended());
}

fn a_probe_that_fails_in_any_way_is_unhealthy(docker: &Docker) {
    for (probe, code) in [(["/probe.wasm", "trap"], 134), (["/nope.wasm", ""], -1)] {
        let container = docker.start(&Run::new(&image(&probe)));
        wait_for_health(docker, &container, "unhealthy");
        let result = last_probe(docker, &container);
        assert_eq!(result["ExitCode"], code, "{result}");
        assert_ne!(result["Output"], "");
    }
}

fn a_probe_that_hangs_is_ended(docker: &Docker) {
    let run = Run::new(&image(&["/probe.wasm", "spin"])).extra(&["--health-timeout", "100ms"]);
    let container = docker.start(&run);
    wait_for_health(docker, &container, "unhealthy");
    let result = last_probe(docker, &container);
    assert!(result["Output"].as_str().is_some_and(|text| text.contains("exceeded")), "{result}");
    // The next probe does not run beside it.
    wait_until("the probe's end", DEADLINE, || {
        let top = docker.docker(&["top", container.id()]).success();
        !top.contains("/probe.wasm spin")
    });
}

on_dockers!(
    health_follows_what_the_probe_finds,
    a_probe_that_fails_in_any_way_is_unhealthy,
    a_probe_that_hangs_is_ended,
);
