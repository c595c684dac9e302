//! The Kubernetes API, with the pod's service account: the node's labels, and the log of a test
//! pod.

mod client;
pub(crate) mod logs;

use serde_json::{Map, Value, json};

use crate::VERSION;
use crate::error::NodeError;
use client::Client;

/// The prefix of the labels: `wherry/wasmtime=true`. The chart's RuntimeClasses select nodes by
/// them.
const PREFIX: &str = "wherry/";

/// Sets a label for each installed engine, and removes those of engines that are not installed.
pub(crate) fn label(node: &str, engines: &[String], gone: &[String]) -> Result<(), NodeError> {
    let client = Client::of_the_pod()?;
    client.patch(&format!("/api/v1/nodes/{node}"), &patch(engines, gone))
}

/// The merge patch: `null` removes a label, and one that is not there may be removed.
fn patch(engines: &[String], gone: &[String]) -> Value {
    let mut labels = Map::new();
    for engine in gone {
        labels.insert(format!("{PREFIX}{engine}"), Value::Null);
    }
    for engine in engines {
        labels.insert(format!("{PREFIX}{engine}"), json!("true"));
    }
    let version = if engines.is_empty() { Value::Null } else { json!(VERSION) };
    labels.insert(format!("{PREFIX}version"), version);
    json!({"metadata": {"labels": labels}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_with_engines_and_go_with_them() {
        let patched = patch(&["wamr".into()], &["wasmtime".into()]);
        assert_eq!(
            patched,
            json!({"metadata": {"labels": {"wherry/wamr": "true", "wherry/wasmtime": null, "wherry/version": VERSION}}})
        );
        let removed = patch(&[], &["wamr".into()]);
        assert_eq!(
            removed,
            json!({"metadata": {"labels": {"wherry/wamr": null, "wherry/version": null}}})
        );
    }
}
