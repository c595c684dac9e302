//! The streams of a container: logs, exec, attach, port-forward.

use serde_json::json;
use wherry_k8s::{Cluster, Kind, PATIENCE, Space};
use wherry_testing::{Client, wait_for};

fn a_short_pod_succeeds_with_its_line(kind: Kind) {
    let space = Space::new(kind);
    let args = ["echo", "hello", "there"];
    let printed = space.output("short", json!({"containers": [{"args": args}]}));
    assert_eq!(printed, "hello there\n");
}

fn each_of_many_short_pods_has_its_line_in_its_log(kind: Kind) {
    // A container that has ended before its log is read is where lines get lost.
    let pods = if kind == Kind::Wasm { 500 } else { 40 };
    let space = Space::new(kind);
    let args = ["echo", "line", "$(JOB_COMPLETION_INDEX)"];
    let template = space.template(json!({"containers": [{"args": args}]}));
    space.create(
        "jobs",
        &json!({"metadata": {"name": "lines"}, "spec": {
            "completions": pods, "parallelism": 60, "completionMode": "Indexed",
            "backoffLimit": 0, "template": template,
        }}),
    );
    let job = space.wait("all have ended", "jobs/lines", |job| {
        let status = &job["status"];
        assert!(status["failed"].as_u64().unwrap_or(0) == 0, "a pod failed: {status:#}");
        status["succeeded"] == pods
    });
    assert_eq!(job["status"]["succeeded"], pods);
    let index = "batch.kubernetes.io/job-completion-index";
    for pod in space.list("pods", "job-name=lines") {
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        let number = pod["metadata"]["annotations"][index].as_str().expect("its number");
        let log = wherry_k8s::Pod::new(&space, name).log("main");
        assert_eq!(log, format!("line {number}\n"), "the log of {name}");
    }
}

fn a_large_log_is_complete(kind: Kind) {
    let space = Space::new(kind);
    let printed = space.output("large", json!({"containers": [{"args": ["spew", "5000000"]}]}));
    assert_eq!(printed.len(), 5_000_000);
}

fn exec_has_input_output_and_an_exit_code(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.kit("exec", &["sleep", "1000"]);
    pod.wait_ready();
    assert_eq!(pod.exec("main", &["/kit", "echo", "from", "exec"]).success(), "from exec\n");
    assert_eq!(pod.exec("main", &["/kit", "exit", "7"]).code, 7);
    let words = pod.words(&["exec", "--stdin", pod.name(), "--", "/kit", "cat"]);
    let answered = Cluster::shared().kubectl_with(&words, "typed\n");
    assert_eq!(answered.success(), "typed\n");
}

fn exec_in_a_terminal_is_one(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.kit("terminal", &["sleep", "1000"]);
    pod.wait_ready();
    let words = pod.words(&["exec", "--stdin", "--tty", pod.name(), "--", "/kit", "tty"]);
    let outcome = Client::in_terminal(&Cluster::shared().kubectl_command(&words)).end();
    let printed = outcome.success();
    assert_eq!(printed.matches(" terminal").count(), 3, "{printed}");
}

fn attach_in_a_terminal_types_into_the_container(kind: Kind) {
    let space = Space::new(kind);
    let container = json!({"args": ["cat"], "stdin": true, "tty": true});
    let pod = space.pod("attach", json!({"containers": [container]}));
    pod.wait_ready();
    let words = pod.words(&["attach", "--stdin", "--tty", pod.name()]);
    let mut client = Client::in_terminal(&Cluster::shared().kubectl_command(&words));
    client.wait_for("press");
    client.say(b"typed\r");
    // Once from the terminal, once from the guest.
    client.wait_for_times("typed", 2);
    client.say(b"\x04");
    client.end();
    pod.wait_phase("Succeeded");
}

fn port_forward_reaches_the_container(kind: Kind) {
    let space = Space::new(kind);
    let pod = space.pod("web", json!({"containers": [kind.web(8080)]}));
    pod.wait_ready();
    let words = pod.words(&["port-forward", pod.name(), ":8080"]);
    let client = Client::start(Cluster::shared().kubectl_command(&words));
    client.wait_for("Forwarding from 127.0.0.1:");
    let shown = client.shown();
    let port = shown.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let address = format!("127.0.0.1:{}", port.expect("a port"));
    let answer = wait_for("an answer", PATIENCE, || {
        Cluster::shared().http_get(&address, "/").filter(|answer| answer.ends_with("ok\n"))
    });
    assert!(answer.contains("200"), "{answer}");
}

wherry_k8s::on_both!(
    a_short_pod_succeeds_with_its_line,
    each_of_many_short_pods_has_its_line_in_its_log,
    a_large_log_is_complete,
    exec_has_input_output_and_an_exit_code,
    exec_in_a_terminal_is_one,
    attach_in_a_terminal_types_into_the_container,
    port_forward_reaches_the_container,
);
