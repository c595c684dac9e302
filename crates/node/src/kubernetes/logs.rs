//! `check-pods`: the last step of `helm test`, which reads the logs of the pods of the steps
//! before.

use std::process::ExitCode;

use super::client::Client;
use crate::args::CheckPods;
use crate::error::NodeError;
use crate::print_line;

/// Fails unless each pod's log has the text.
pub(crate) fn run(options: &CheckPods) -> Result<ExitCode, NodeError> {
    let client = Client::of_the_pod()?;
    for pod in &options.pods {
        let log =
            client.get(&format!("/api/v1/namespaces/{}/pods/{pod}/log", options.namespace))?;
        if !log.contains(&options.expect) {
            let (log, expect) = (log.trim(), &options.expect);
            return Err(NodeError::Test(format!(
                "the log of pod {pod} is {log:?}: expected {expect:?}"
            )));
        }
        print_line(format!("the log of pod {pod} is as expected"));
    }
    Ok(ExitCode::SUCCESS)
}
