//! How containers, pods and jobs end, and how that is reported.

use serde_json::json;
use wherry_k8s::{Kind, Space};

fn an_exit_code_is_reported(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.kit("code", &["exit", "42"]);
    pod.wait_phase("Failed");
    let ended = pod.wait_ended("main");
    assert_eq!(ended["exitCode"], 42, "{ended:#}");
    assert_eq!(ended["reason"], "Error", "{ended:#}");
}

fn a_termination_message_is_reported(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.kit("message", &["write", "/dev/termination-log", "all done"]);
    let ended = pod.wait_ended("main");
    assert_eq!(ended["message"], "all done", "{ended:#}");
}

fn the_end_of_the_log_is_the_message_of_a_failure(kind: Kind) {
    let space = Space::new(kind);
    let container = json!({
        "args": ["do", "echo last words", "exit 3"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    let pod = space.pod("message", json!({"containers": [container]}));
    let ended = pod.wait_ended("main");
    assert!(ended["message"].as_str().is_some_and(|m| m.contains("last words")), "{ended:#}");
}

fn a_pod_ends_at_its_deadline(kind: Kind) {
    let space = Space::new(kind);
    let container = json!({"args": ["sleep", "1000"]});
    let pod = space.pod("late", json!({"activeDeadlineSeconds": 2, "containers": [container]}));
    let ended = pod.wait_phase("Failed");
    assert_eq!(ended["status"]["reason"], "DeadlineExceeded", "{:#}", ended["status"]);
}

fn a_job_fails_after_its_retries(kind: Kind) {
    let space = Space::new(kind);
    let template = space.template(json!({"containers": [{"args": ["exit", "3"]}]}));
    let job =
        json!({"metadata": {"name": "retry"}, "spec": {"backoffLimit": 1, "template": template}});
    space.create("jobs", &job);
    let job =
        space.wait("the job failed", "jobs/retry", |job| wherry_k8s::pod::condition(job, "Failed"));
    assert_eq!(job["status"]["failed"], 2, "{:#}", job["status"]);
}

fn a_missing_program_is_one_sentence(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod("missing", json!({"containers": [{"command": ["/not/there"]}]}));
    let event = pod.wait_event("/not/there");
    assert!(event.contains("no such file or directory"), "{event}");
    assert_eq!(event.lines().count(), 1, "{event}");
}

fn a_pod_ends_without_being_killed(kind: Kind) {
    let space = Space::new(kind);
    let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let container = match kind {
        Kind::Wasm => json!({"args": ["sleep", "1000"]}),
        Kind::Runc => json!({"image": "wherry/busybox:1", "command": ["sh", "-c", script]}),
    };
    let fields = json!({"terminationGracePeriodSeconds": 600, "containers": [container]});
    let pod = space.pod("polite", fields);
    pod.wait_ready();
    // Its deadline is shorter than the grace period.
    pod.delete();
}

wherry_k8s::on_both!(
    an_exit_code_is_reported,
    a_termination_message_is_reported,
    the_end_of_the_log_is_the_message_of_a_failure,
    a_pod_ends_at_its_deadline,
    a_job_fails_after_its_retries,
    a_missing_program_is_one_sentence,
    a_pod_ends_without_being_killed,
);
