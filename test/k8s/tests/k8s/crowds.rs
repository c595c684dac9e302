//! Many pods at once: a Deployment that grows, changes and goes.

use serde_json::json;
use wherry_k8s::{Kind, PATIENCE, Space};
use wherry_testing::wait_until;

fn a_deployment_of_thirty_is_scaled_rolled_and_deleted(kind: Kind) {
    let space = Space::new(kind);
    let template = |generation: &str| {
        let container = json!({
            "args": ["sleep", "1000"], "env": [{"name": "GENERATION", "value": generation}],
        });
        space.template(json!({
            "metadata": {"labels": {"app": "crowd"}}, "restartPolicy": "Always",
            "containers": [container],
        }))
    };
    space.create(
        "deployments",
        &json!({"metadata": {"name": "crowd"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "crowd"}},
            "strategy": {"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": "50%"}},
            "template": template("first"),
        }}),
    );
    let path = space.path("deployments/crowd");
    let wait_for = |replicas: u64| {
        space.wait(&format!("{replicas} are available"), "deployments/crowd", |found| {
            let (status, count) = (&found["status"], |value: &serde_json::Value| value.as_u64());
            status["observedGeneration"] == found["metadata"]["generation"]
                && count(&status["availableReplicas"]).unwrap_or(0) == replicas
                && count(&status["updatedReplicas"]).unwrap_or(0) == replicas
                && count(&status["replicas"]).unwrap_or(0) == replicas
        })
    };
    wait_for(1);
    space.api().patch(&path, &json!({"spec": {"replicas": 30}}));
    wait_for(30);
    space.api().patch(&path, &json!({"spec": {"template": template("second")}}));
    wait_for(30);
    space.api().patch(&path, &json!({"spec": {"replicas": 5}}));
    wait_for(5);
    for pod in space.list("pods", "app=crowd") {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            let restarts = wherry_k8s::pod::status(&pod, "main")["restartCount"].clone();
            assert_eq!(restarts, 0, "{:#}", pod["status"]);
        }
    }
    space.api().delete(&path);
    wait_until("all pods are gone", PATIENCE, || space.list("pods", "app=crowd").is_empty());
}

wherry_k8s::on_both!(a_deployment_of_thirty_is_scaled_rolled_and_deleted);
