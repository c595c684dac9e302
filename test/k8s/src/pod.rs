//! A pod, and what can be asked of it.

use crate::{Cluster, Node, PATIENCE, Space};
use serde_json::Value;
use std::time::{Duration, Instant};
use wherry_testing::Outcome;

/// A pod in a test's namespace.
pub struct Pod<'s> {
    space: &'s Space,
    name: String,
}

impl<'s> Pod<'s> {
    /// The pod of this name, which another made.
    pub fn new(space: &'s Space, name: &str) -> Pod<'s> {
        Pod { space, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object.
    #[track_caller]
    pub fn get(&self) -> Value {
        self.space.get(&format!("pods/{}", self.name))
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.get()["status"]["podIP"].as_str().unwrap_or_default().to_owned()
    }

    /// The node that it runs on.
    pub fn node(&self) -> &'static Node {
        Cluster::shared().node(self.get()["spec"]["nodeName"].as_str().unwrap_or_default())
    }

    /// Waits until the pod is as it should be, and returns it. Panics with its state and its events
    /// when that does not come about.
    #[track_caller]
    pub fn wait(&self, what: &str, mut good: impl FnMut(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let pod = self.get();
            if good(&pod) {
                return pod;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain: {what} of pod {}; its status: {:#}\n{}",
                self.name,
                pod["status"],
                self.events()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for a phase; another one that is final is an error.
    #[track_caller]
    pub fn wait_phase(&self, phase: &str) -> Value {
        self.wait(&format!("phase {phase}"), |pod| {
            let now = pod["status"]["phase"].as_str().unwrap_or_default();
            let wrong = matches!(now, "Succeeded" | "Failed") && now != phase;
            assert!(!wrong, "pod {} {now}: {:#}\n{}", self.name, pod["status"], self.events());
            now == phase
        })
    }

    /// Waits until all its containers are ready.
    #[track_caller]
    pub fn wait_ready(&self) -> Value {
        self.wait("readiness", |pod| condition(pod, "Ready"))
    }

    /// Waits until a container has ended, and returns how: `exitCode`, `reason`, `message`.
    #[track_caller]
    pub fn wait_ended(&self, container: &str) -> Value {
        let pod = self.wait(&format!("the end of {container}"), |pod| {
            !state(pod, container)["terminated"].is_null()
        });
        state(&pod, container)["terminated"].clone()
    }

    /// Waits until a container has been restarted so often, and returns its status.
    #[track_caller]
    pub fn wait_restarts(&self, container: &str, times: u64) -> Value {
        let pod = self.wait(&format!("restart {times} of {container}"), |pod| {
            status(pod, container)["restartCount"].as_u64() >= Some(times)
        });
        status(&pod, container)
    }

    /// What a container printed.
    #[track_caller]
    pub fn log(&self, container: &str) -> String {
        let path = format!("pods/{}/log?container={container}", self.name);
        let answer = self.space.api().request("GET", &self.space.path(&path), None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Waits until a text is in a container's log.
    #[track_caller]
    pub fn wait_log(&self, container: &str, text: &str) {
        let start = Instant::now();
        loop {
            let path = format!("pods/{}/log?container={container}", self.name);
            let answer = self.space.api().request("GET", &self.space.path(&path), None);
            if answer.status == 200 && answer.text().contains(text) {
                return;
            }
            let late = start.elapsed() > PATIENCE;
            assert!(!late, "waited for {text:?} in vain: {}\n{}", answer.text(), self.events());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Its events, one per line.
    pub fn events(&self) -> String {
        let selector = format!("events?fieldSelector=involvedObject.name={}", self.name);
        let events = self.space.get(&selector);
        let lines = events["items"].as_array().into_iter().flatten();
        lines.map(|e| format!("{} {}\n", text(&e["reason"]), text(&e["message"]))).collect()
    }

    /// Waits for an event that has this text in its reason or message, and returns the line.
    #[track_caller]
    pub fn wait_event(&self, part: &str) -> String {
        wherry_testing::wait_for(&format!("event {part:?}"), PATIENCE, || {
            self.events().lines().find(|line| line.contains(part)).map(str::to_owned)
        })
    }

    /// The words of a kubectl call in the pod's namespace.
    pub fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        [&["--namespace", self.space.name()], words].concat()
    }

    /// Runs `kubectl exec` in a container.
    pub fn exec(&self, container: &str, words: &[&str]) -> Outcome {
        let start = ["exec", &self.name, "--container", container, "--"];
        Cluster::shared().kubectl(&self.words(&[&start[..], words].concat()))
    }

    /// Changes fields of the pod, or of a subresource like `resize`.
    #[track_caller]
    pub fn patch(&self, subresource: &str, fields: &Value) -> Value {
        let path = format!("pods/{}/{subresource}", self.name);
        self.space.api().patch(self.space.path(&path).trim_end_matches('/'), fields)
    }

    /// Deletes the pod, and waits until the API has forgotten it.
    #[track_caller]
    pub fn delete(&self) {
        let path = self.space.path(&format!("pods/{}", self.name));
        self.space.api().delete(&path);
        wherry_testing::wait_until(&format!("pod {} is gone", self.name), PATIENCE, || {
            self.space.api().find(&path).is_none()
        });
    }
}

/// Whether a condition of an object is true.
pub fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// The status of a container of any sort.
pub fn status(pod: &Value, container: &str) -> Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all =
        lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.into_iter().find(|status| status["name"] == container).cloned().unwrap_or(Value::Null)
}

/// The state of a container of any sort.
pub fn state(pod: &Value, container: &str) -> Value {
    status(pod, container)["state"].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
