//! A namespace of the API for one test.

use crate::{Api, Cluster, Kind, PATIENCE, Pod};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use wherry_testing::{wait_for, wait_until};

/// A namespace, deleted with all that is in it at the end of the test.
pub struct Space {
    name: String,
    kind: Kind,
    /// Whether its end is ours to bring about.
    ours: bool,
}

impl Space {
    /// Makes one whose pods are of this kind.
    pub fn new(kind: Kind) -> Space {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let api = Cluster::shared().api();
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}}));
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        wait_until("the namespace has its service account", PATIENCE, || {
            api.find(&account).is_some()
        });
        Space { name, kind, ours: true }
    }

    /// A namespace that is there, and stays.
    pub fn existing(name: &str, kind: Kind) -> Space {
        Space { name: name.to_owned(), kind, ours: false }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What runs its pods.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The client.
    pub fn api(&self) -> &'static Api {
        Cluster::shared().api()
    }

    /// The path of objects in the namespace, like `pods` or `pods/NAME/log`.
    pub fn path(&self, rest: &str) -> String {
        let group = match rest.split('/').next().unwrap_or_default() {
            "deployments" | "daemonsets" | "statefulsets" | "replicasets" => "/apis/apps/v1",
            "jobs" | "cronjobs" => "/apis/batch/v1",
            "horizontalpodautoscalers" => "/apis/autoscaling/v2",
            "poddisruptionbudgets" => "/apis/policy/v1",
            _ => "/api/v1",
        };
        format!("{group}/namespaces/{}/{rest}", self.name)
    }

    /// Makes an object: `what` is its plural.
    #[track_caller]
    pub fn create(&self, what: &str, object: &Value) -> Value {
        self.api().create(&self.path(what), object)
    }

    /// An object of the namespace.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        self.api().get(&self.path(what))
    }

    /// The objects of the namespace with a label, or all.
    #[track_caller]
    pub fn list(&self, what: &str, label: &str) -> Vec<Value> {
        let query = if label.is_empty() { "" } else { "?labelSelector=" };
        let list = self.api().get(&self.path(&format!("{what}{query}{label}")));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object of the namespace is as it should be, and returns it.
    #[track_caller]
    pub fn wait(&self, what: &str, object: &str, mut good: impl FnMut(&Value) -> bool) -> Value {
        let path = self.path(object);
        wait_for(&format!("{what} ({path})"), PATIENCE, || {
            self.api().find(&path).filter(|found| good(found))
        })
    }

    /// A pod template: its specification's fields, with what most pods of the tests have in common
    /// in place of missing ones. `metadata` among the fields is the template's.
    pub fn template(&self, fields: Value) -> Value {
        let mut spec = json!({
            "runtimeClassName": self.kind.class(),
            "restartPolicy": "Never",
            // A native program that is the first process of its pid namespace ignores SIGTERM.
            "terminationGracePeriodSeconds": 2,
            "containers": [{}],
        });
        let mut metadata = json!({});
        for (key, value) in fields.as_object().into_iter().flatten() {
            if key == "metadata" { metadata = value.clone() } else { spec[key] = value.clone() }
        }
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container["image"].is_null() {
                    container["image"] = json!(self.kind.kit());
                }
                if container["name"].is_null() {
                    container["name"] = json!("main");
                }
            }
        }
        json!({"metadata": metadata, "spec": spec})
    }

    /// Makes a pod of these fields of its specification.
    #[track_caller]
    pub fn pod(&self, name: &str, fields: Value) -> Pod<'_> {
        let mut object = self.template(fields);
        object["metadata"]["name"] = json!(name);
        self.create("pods", &object);
        Pod::new(self, name)
    }

    /// Makes a pod with one container of the guest `kit`, with these arguments.
    #[track_caller]
    pub fn kit(&self, name: &str, args: &[&str]) -> Pod<'_> {
        self.pod(name, json!({"containers": [{"args": args}]}))
    }

    /// Runs a pod to its end, and returns what its container `main` printed.
    #[track_caller]
    pub fn output(&self, name: &str, fields: Value) -> String {
        let pod = self.pod(name, fields);
        pod.wait_phase("Succeeded");
        pod.log("main")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        // Its end takes seconds and is left to the controllers. A failing test must not fail again
        // here.
        let _ =
            self.api().try_request("DELETE", &format!("/api/v1/namespaces/{}", self.name), None);
    }
}
