//! What an operator of the shared mode has: settings, metrics, status, and an end in good order.

use std::net::TcpListener;
use std::path::Path;

use wherry_e2e::images::{app, glutton, hello, kit, spin};
use wherry_e2e::managed::{Managed, get_port, kill, manager, operator, series, signal};
use wherry_testing::{
    ContainerdVersion, DEADLINE, Daemon, Process, Run, managers, processes, repository, wait_until,
};

use crate::handover::runs;
use crate::upgrade::Installed;

fn an_invalid_file_is_the_error_of_the_first_container(managed: &Managed) {
    let containerd = &managed.containerd;
    let said = containerd.run(&Run::new(&hello())).failure();
    let expected = format!(
        "invalid manager's settings in {}, line 2, column 1: unknown field `idel`, expected one of",
        managed.file().display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(managers(&containerd.address()).is_empty());
    let checked = operator(&["check", &managed.file().display().to_string()]);
    assert!(checked.failure().contains(&expected), "{}", checked.err());

    managed.set("spare-hosts = 0\n");
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    let first = manager(containerd);
    // A manager that serves has read its file.
    managed.set("idel = 300\n");
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    assert_eq!(manager(containerd).pid, first.pid);
    std::fs::remove_file(managed.file()).expect("it is there");
    kill(first.pid);
    let said = containerd.run(&Run::new(&hello())).failure();
    assert!(said.contains("cannot read the manager's settings from"), "{said}");
    managed.set("");
}

fn status_shows_a_manager_and_its_containers_while_it_lives(managed: &Managed) {
    let containerd = &managed.containerd;
    assert_eq!(managed.status(), None);
    let container = containerd.start(&Run::new(&spin()));
    let pid = manager(containerd).pid;
    let status = managed.status().expect("a manager");
    assert_eq!(status["pid"], pid);
    assert_eq!(status["namespace"], containerd.namespace());
    assert_eq!(status["containers"]["running"], 1, "{status}");
    assert_eq!(status["metrics"], "off");
    let control = status["controlSocket"].as_str().expect("a path").to_owned();
    let metrics = managed.metrics();
    assert!(
        metrics.starts_with("HTTP/1.1 404 ") && metrics.contains("metrics are off"),
        "{metrics}"
    );

    let table = operator(&["status"]).out();
    let row = table.lines().find(|line| line.contains(&format!(" {pid} "))).expect("its row");
    assert!(row.contains("1 running") && row.contains(containerd.namespace()), "{table}");
    wait_until("no unsent event", DEADLINE, || {
        managed.status().is_some_and(|status| status["unsentEvents"] == 0)
    });
    container.remove();
    assert_eq!(managed.status().expect("a manager")["containers"]["running"], 0);

    kill(pid);
    assert!(Path::new(&control).exists() && managed.status().is_none());
    containerd.run(&Run::new(&hello())).success();
    assert_eq!(managed.status().expect("its successor")["controlSocket"], *control);
}

fn a_manager_that_is_asked_to_end_keeps_its_containers_and_ends_after_them(managed: &Managed) {
    let containerd = &managed.containerd;
    let container = containerd.start(&Run::new(&spin()));
    let pid = manager(containerd).pid;
    let control = managed.status().expect("a manager")["controlSocket"].clone();
    signal(pid, "TERM");
    let refusal = "the shim was asked to end, and does so without containers: it has 1 running";
    wait_until("the refusal in the log", DEADLINE, || {
        std::fs::read_to_string(containerd.log_path()).is_ok_and(|log| log.contains(refusal))
    });
    assert!(!container.ended());
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    assert_eq!(manager(containerd).pid, pid, "it still serves");
    container.remove();
    wait_until("the manager's end", DEADLINE, || Process::of(pid).is_none());
    assert!(!Path::new(control.as_str().expect("a path")).exists());
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");

    // Without containerd, which would delete it, an ended container does not count.
    let container = containerd.start(&Run::new(&spin()));
    let (pid, guest) = (manager(containerd).pid, container.pid());
    containerd.kill9();
    signal(pid, "TERM");
    signal(guest, "KILL");
    wait_until("the manager's end", DEADLINE, || Process::of(pid).is_none());
    containerd.start_again();
}

mod settings {
    use super::an_invalid_file_is_the_error_of_the_first_container;

    wherry_e2e::on_containerd_versions!(
        version =>
            &wherry_e2e::managed::Managed::start(version, "# idle: seconds\nidel = 300\n");
        an_invalid_file_is_the_error_of_the_first_container
    );
}

mod defaults {
    use super::{
        a_manager_that_is_asked_to_end_keeps_its_containers_and_ends_after_them,
        status_shows_a_manager_and_its_containers_while_it_lives,
    };

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "");
        status_shows_a_manager_and_its_containers_while_it_lives,
        a_manager_that_is_asked_to_end_keeps_its_containers_and_ends_after_them
    );
}

fn spare_hosts_end_while_no_container_starts(managed: &Managed) {
    let containerd = &managed.containerd;
    let keeper = containerd.start(&Run::new(&spin()));
    let pid = manager(containerd).pid;
    let waiting = || {
        let children = processes().into_iter().filter(|process| {
            process.parent().is_some_and(|parent| parent.pid == pid)
                && ["wherry zygote", "wherry host"]
                    .iter()
                    .any(|name| process.command.starts_with(name))
        });
        children.count()
    };
    for _ in 0..2 {
        assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
        wait_until("the end of the spare hosts", DEADLINE, || {
            managed.status().is_some_and(|status| status["spareHosts"] == 0) && waiting() == 0
        });
    }
    assert!(!keeper.ended());
    keeper.remove();
}

mod unused {
    use super::spare_hosts_end_while_no_container_starts;

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "spare-idle = 1\n");
        spare_hosts_end_while_no_container_starts
    );
}

fn a_handover_keeps_a_managers_settings_and_that_it_was_asked_to_end(version: ContainerdVersion) {
    let installed = Installed::new();
    let managed = &installed.managed(version, "metrics = \"socket\"\nspare-hosts = 1\n");
    let containerd = &managed.containerd;
    let container = containerd.start(&Run::new(&spin()));
    let pid = manager(containerd).pid;
    // A manager reads its settings once.
    managed.set("spare-hosts = 3\n");
    signal(pid, "TERM");
    wait_until("the refusal in the log", DEADLINE, || {
        let log = std::fs::read_to_string(containerd.log_path());
        log.is_ok_and(|log| log.contains("the shim was asked to end"))
    });
    let control = managed.status().expect("a manager")["controlSocket"].clone();
    for _ in 0..2 {
        installed.again();
        signal(pid, "USR2");
        wait_until("the new version", DEADLINE, || runs(pid, &installed.shim()));
        wait_until("its status", DEADLINE, || {
            managed.status().is_some_and(|status| {
                status["pid"] == pid
                    && status["controlSocket"] == control
                    && status["containers"]["running"] == 1
                    && status["spareHosts"] == 1
            })
        });
        assert_eq!(series(&managed.metrics(), r#"wherry_containers{state="running"}"#), 1.0);
    }
    assert!(!container.ended());
    container.remove();
    wait_until("the manager's end", DEADLINE, || Process::of(pid).is_none());
    assert!(!Path::new(control.as_str().expect("a path")).exists());
}

mod handed_over {
    use super::a_handover_keeps_a_managers_settings_and_that_it_was_asked_to_end;

    wherry_e2e::on_containerd_versions!(
        version => version;
        a_handover_keeps_a_managers_settings_and_that_it_was_asked_to_end
    );
}

fn metrics_count_what_happens(managed: &Managed) {
    let containerd = &managed.containerd;
    for _ in 0..3 {
        containerd.run(&Run::new(&hello())).success();
    }
    let container = containerd.start(&Run::new(&kit(false)).args(&["sleep", "1000000"]));
    container.wait_for_output("ready\n");
    containerd.exec(container.id(), &["/app.wasm", "sleep", "0"], b"").success();
    containerd.run(&Run::new(&app("text", "this is just a note\n"))).failure();
    let answer = managed.metrics();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    let value = |name: &str| series(&answer, name);
    assert_eq!(value(r#"wherry_containers{state="running"}"#), 1.0);
    assert_eq!(value(r#"wherry_starts_total{result="success"}"#), 4.0);
    assert_eq!(value(r#"wherry_starts_total{result="failure"}"#), 1.0);
    let starts = |start: &str| value(&format!("wherry_start_seconds_count{{start=\"{start}\"}}"));
    assert_eq!(starts("cold") + starts("warm"), 4.0, "{answer}");
    let hosts =
        |result: &str| value(&format!("wherry_spare_host_requests_total{{result=\"{result}\"}}"));
    assert_eq!(hosts("hit") + hosts("miss"), 6.0, "{answer}");
    assert_eq!(value(r#"wherry_forks_total{process="init"}"#), 4.0);
    assert_eq!(value(r#"wherry_forks_total{process="exec"}"#), 1.0);
    assert_eq!(value(r#"wherry_exits_total{cause="exit"}"#), 3.0);
    assert_eq!(value(r#"wherry_rpc_seconds_count{method="Create"}"#), 5.0);
    assert!(value("wherry_start_seconds_sum{start=\"warm\"}") > 0.0, "{answer}");

    container.kill("KILL");
    wait_until("the exit is counted", DEADLINE, || {
        series(&managed.metrics(), r#"wherry_exits_total{cause="signal"}"#) == 1.0
    });
    container.remove();
    assert_eq!(series(&managed.metrics(), r#"wherry_containers{state="running"}"#), 0.0);
    let container = containerd.start(&Run::new(&glutton()).memory(64 << 20));
    assert_eq!(container.wait(), 137);
    assert_eq!(series(&managed.metrics(), r#"wherry_exits_total{cause="oom"}"#), 1.0);
}

mod counted {
    use super::metrics_count_what_happens;

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "metrics = \"socket\"");
        metrics_count_what_happens
    );
}

fn a_port_serves_metrics_and_one_that_is_taken_is_in_the_status(managed: &Managed) {
    let containerd = &managed.containerd;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let address = format!("127.0.0.1:{port}");
    managed.set(&format!("metrics = \"{address}\"\n"));
    // The lack of metrics does not keep a container from running.
    containerd.run(&Run::new(&hello())).success();
    let metrics = managed.status().expect("a manager")["metrics"].clone();
    let metrics = metrics.as_str().expect("text");
    assert!(metrics.starts_with(&format!("cannot serve metrics at {address}: ")), "{metrics}");
    drop(taken);
    kill(manager(containerd).pid);
    containerd.run(&Run::new(&hello())).success();
    assert_eq!(managed.status().expect("a manager")["metrics"], *address);
    let answer = get_port(port);
    assert_eq!(series(&answer, r#"wherry_starts_total{result="success"}"#), 1.0);
    let info = format!("namespace=\"{}\"", containerd.namespace());
    assert!(answer.contains(&info), "{answer}");
}

mod port {
    use super::a_port_serves_metrics_and_one_that_is_taken_is_in_the_status;

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "");
        a_port_serves_metrics_and_one_that_is_taken_is_in_the_status
    );
}

fn the_shipped_file_is_valid_and_wrong_usage_is_named(_: ()) {
    let file = repository().join("packaging/manager.toml").display().to_string();
    assert_eq!(operator(&["check", &file]).success(), format!("{file} is valid\n"));
    let error = operator(&["check", &file, "more"]).failure();
    assert!(error.contains("unexpected argument \"more\": usage: check [FILE]"), "{error}");
    let error = operator(&["status", "--yaml"]).failure();
    assert!(error.contains("unexpected argument \"--yaml\": usage: status [--json]"), "{error}");
    let help = operator(&["-help"]).success();
    assert!(help.contains("check [FILE]") && help.contains("status [--json]"), "{help}");
}

wherry_e2e::tests_in!(commands, (), the_shipped_file_is_valid_and_wrong_usage_is_named);
