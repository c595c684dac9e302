//! The files of `examples/kubernetes`, as they stand, on nodes where the chart is installed.

use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry_k8s::pod::{condition, state};
use wherry_k8s::{Cluster, Kind, PATIENCE, Pod, Space};
use wherry_testing::{busybox, examples, repository, wait_for, wait_until};

use crate::chart;

/// Runs `kubectl apply` on one of the files.
fn apply(space: &Space, file: &str) {
    let path = repository().join("examples/kubernetes").join(file).display().to_string();
    let words = ["--namespace", space.name(), "apply", "--filename", &path];
    Cluster::shared().kubectl(&words).success();
}

/// Makes the images known to the registry, under the names of the files.
fn publish_images() {
    let images = [
        ("docker.io/wherry/web:1", examples::image("web")),
        ("docker.io/wherry/steps:1", examples::image("steps")),
        ("docker.io/library/busybox:1", busybox()),
    ];
    for (name, image) in images {
        Cluster::shared().add_archive(name, &image.pack().path);
    }
}

#[test]
fn the_examples_run_as_they_stand() {
    let (_guard, _) = chart::nodes();
    publish_images();
    Cluster::shared().serve_metrics();
    chart::install(&["wasmtime"]);
    let space = Space::new(Kind::Wasm);
    // At the same time, as the time goes into waiting.
    for file in ["workflow.yaml", "mixed.yaml", "web.yaml"] {
        apply(&space, file);
    }
    the_workflow_completes(&space);
    the_sidecar_prints_the_log_of_the_server(&space);
    the_server_is_scaled_under_load(&space);
    drop(space);
    chart::uninstall();
}

fn the_workflow_completes(space: &Space) {
    space.wait("the workflow is complete", "jobs/workflow", |job| condition(job, "Complete"));
    let pods = space.list("pods", "batch.kubernetes.io/job-name=workflow");
    let [pod] = &pods[..] else { panic!("the steps have run once: {pods:#?}") };
    for step in ["generate", "add", "verify"] {
        assert_eq!(state(pod, step)["terminated"]["exitCode"], 0, "{step}: {:#}", pod["status"]);
    }
    let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
    assert_eq!(Pod::new(space, name).log("verify"), "verified: 5050\n");
}

fn the_sidecar_prints_the_log_of_the_server(space: &Space) {
    let pod = Pod::new(space, "mixed");
    pod.wait_ready();
    pod.wait_log("access-log", "GET /ready HTTP/1.1\n");
    let address = format!("{}:8080", pod.address());
    let answer = Cluster::shared().http_get(&address, "/visit").expect("an answer");
    assert!(answer.ends_with("hello from mixed\n"), "{answer}");
    pod.wait_log("access-log", "GET /visit HTTP/1.0\n");
    pod.delete();
}

/// The addresses behind the service.
fn endpoints(space: &Space) -> Vec<String> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", space.name());
    let slices = Cluster::shared().api().get(&path);
    let slices = slices["items"].as_array().into_iter().flatten();
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()).map(str::to_owned).collect()
}

fn the_server_is_scaled_under_load(space: &Space) {
    let first = wait_for("an endpoint of the service", PATIENCE, || endpoints(space).pop());
    let available = |deployment: &Value, count: u64| {
        deployment["status"]["availableReplicas"].as_u64() == Some(count)
    };
    space.wait("one is available", "deployments/web", |found| available(found, 1));
    let idle = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !idle.load(Ordering::Relaxed) {
                // An answer that is missing is missing from the load alone.
                Cluster::shared().http_get(&format!("{first}:8080"), "/");
            }
        });
        // Also when the wait fails: the scope ends with the thread.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            space.wait("three are available", "deployments/web", |found| available(found, 3));
        }));
        idle.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    wait_until("three endpoints of the service", PATIENCE, || endpoints(space).len() == 3);
    for address in endpoints(space) {
        let answer = Cluster::shared().http_get(&format!("{address}:8080"), "/");
        assert!(answer.as_ref().is_some_and(|text| text.contains("hello from web-")), "{answer:?}");
    }
}
