//! `docker` commands about a container: wait, cp, rename, commit, diff, export, top, stats, ps.

use serde_json::Value;
use std::fs;
use std::process::Command;
use wherry_e2e::images::{exit, kit, spin};
use wherry_e2e::on_dockers;
use wherry_testing::{Client, DEADLINE, Daemon, Docker, Process, Run, runtime, wait_until};

/// A container whose guest sleeps.
fn sleeping() -> Run {
    Run::new(&kit(false).folder("/data", 0o777)).args(&["sleep", "100000"])
}

fn wait_tells_the_exit_codes_before_and_after_the_end(docker: &Docker) {
    let (one, two) = (docker.start(&sleeping()), docker.start(&Run::new(&exit(9))));
    let (one_id, two_id) = (one.id().to_owned(), two.id().to_owned());
    wait_until("the second's end", DEADLINE, || two.ended());
    let waiting = Client::start(docker.docker_command(&["wait", &two_id, &one_id]));
    waiting.wait_for("9\n");
    one.kill("TERM");
    assert_eq!(waiting.end().success(), "9\n143\n");
    assert_eq!(docker.docker(&["wait", &one_id]).success(), "143\n");
}

fn cp_reaches_a_running_container(docker: &Docker) {
    let container = docker.start(&sleeping());
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let here = |name: &str| folder.path().join(name).display().to_string();
    let there = |name: &str| format!("{}:/data/{name}", container.id());
    fs::create_dir(here("tree")).expect("it is writable");
    fs::write(here("tree/leaf"), "from the host").expect("it is writable");
    docker.docker(&["cp", &here("tree"), &there("")]).success();
    let exec = |words: &[&str]| {
        docker.exec(container.id(), &[&["/app.wasm"], words].concat(), b"").success()
    };
    assert_eq!(exec(&["list", "/data"]), "tree\n");
    assert_eq!(exec(&["read", "/data/tree/leaf"]), "from the host");
    exec(&["write", "/data/tree/fruit", "from the guest"]);
    docker.docker(&["cp", &there("tree/fruit"), &here("fruit")]).success();
    assert_eq!(fs::read_to_string(here("fruit")).expect("copied"), "from the guest");
    let refused = docker.docker(&["cp", &there("nothing"), &here("nothing")]).failure();
    assert!(refused.contains("/data/nothing"), "{refused}");
}

fn cp_reaches_one_before_its_start_and_after_its_end(docker: &Docker) {
    let container = docker.create(&Run::new(&kit(true)).args(&["read", "/settings"]));
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let (settings, back) = (folder.path().join("settings"), folder.path().join("back"));
    fs::write(&settings, "a setting\n").expect("it is writable");
    let (settings, there) =
        (settings.display().to_string(), format!("{}:/settings", container.id()));
    docker.docker(&["cp", &settings, &there]).success();
    let ended = docker.docker(&["start", "--attach", container.id()]);
    assert_eq!(ended.success(), "a setting\n");
    docker.docker(&["cp", &there, &back.display().to_string()]).success();
    assert_eq!(fs::read_to_string(back).expect("copied"), "a setting\n");
}

fn what_a_guest_wrote_is_committed_shown_and_exported(docker: &Docker) {
    let image = kit(false).folder("/data", 0o755);
    let container = docker.start(&Run::new(&image).args(&["write", "/data/made", "by a guest"]));
    assert_eq!(container.wait(), 0);
    let diff = docker.docker(&["diff", container.id()]).success();
    assert_eq!(
        diff.lines().filter(|line| line.contains("/data")).collect::<Vec<_>>(),
        ["C /data", "A /data/made",]
    );

    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let archive = folder.path().join("all.tar").display().to_string();
    docker.docker(&["export", "--output", &archive, container.id()]).success();
    let read = Command::new("tar").args(["-xOf", &archive, "data/made"]).output();
    assert_eq!(String::from_utf8_lossy(&read.expect("tar runs").stdout), "by a guest");

    let name = format!("committed:{}", docker.containerd().new_id());
    let change = r#"CMD ["read", "/data/made"]"#;
    docker.docker(&["commit", "--change", change, container.id(), &name]).success();
    let again = docker.docker(&["run", "--rm", "--runtime", &runtime(), &name]);
    assert_eq!(again.success(), "by a guest");
    docker.docker(&["rmi", &name]).success();
}

fn a_renamed_one_answers_to_its_new_name(docker: &Docker) {
    let container = docker.start(&sleeping());
    let name = format!("renamed-{}", docker.containerd().new_id());
    let old = docker.inspect(container.id(), "{{.Name}}").expect("it is there");
    docker.docker(&["rename", &old, &name]).success();
    docker.docker(&["exec", &old, "/app.wasm", "echo", "x"]).failure();
    let said = docker.docker(&["exec", &name, "/app.wasm", "echo", "x"]).success();
    assert_eq!(said, "x\n");
    docker.docker(&["stop", "--time", "60", &name]).success();
    assert_eq!(container.wait(), 143);
}

fn top_lists_every_process_with_its_arguments(docker: &Docker) {
    let container = docker.start(&sleeping());
    let exec = ["exec", container.id(), "/app.wasm", "sleep", "4321"];
    let beside = Client::start(docker.docker_command(&exec));
    beside.wait_for("ready\n");
    let (pid, both) = (container.pid().to_string(), ["sleep 100000", "sleep 4321"]);
    for words in [&["-o", "pid,args"][..], &["aux"], &[]] {
        let top = docker.docker(&[&["top", container.id()], words].concat()).success();
        let (head, lines) = top.split_once('\n').expect("a head");
        let column = head.split_whitespace().position(|word| word == "PID").expect("a column");
        assert_eq!(lines.lines().count(), 2, "{top}");
        for args in both {
            assert!(lines.contains(&format!("/app.wasm {args}")), "{top}");
        }
        assert!(
            lines.lines().any(|line| line.split_whitespace().nth(column) == Some(&pid)),
            "{pid}: {top}"
        );
    }
}

fn stats_are_numbers(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()).memory(64 << 20));
    let words = ["stats", "--no-stream", "--format", "{{json .}}", container.id()];
    let text = docker.docker(&words).success();
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    let number = |key: &str| {
        let text = stats[key].as_str().unwrap_or_default();
        let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next();
        digits.and_then(|digits| digits.parse::<f64>().ok()).unwrap_or(0.0)
    };
    assert!(number("CPUPerc") > 0.0, "{text}");
    assert!(number("MemPerc") > 0.0 && number("MemPerc") < 100.0, "{text}");
    assert!(number("MemUsage") > 0.0, "{text}");
    assert!(stats["MemUsage"].as_str().is_some_and(|usage| usage.ends_with("/ 64MiB")), "{text}");
    assert!(number("PIDs") >= 1.0, "{text}");
    // The network counters may still be zero: their presence is checked.
    assert!(stats["NetIO"].as_str().is_some_and(|io| io.contains('/')), "{text}");
}

fn inspect_and_ps_tell_a_containers_life(docker: &Docker) {
    let container = docker.create(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let id = container.id();
    let state = || -> Value {
        let text = docker.inspect(id, "{{json .State}}").expect("it is there");
        serde_json::from_str(&text).expect("JSON")
    };
    let ps = || {
        let filter = format!("id={id}");
        docker.docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Status}}"]).success()
    };
    assert_eq!((state()["Status"].as_str(), ps().trim()), (Some("created"), "Created"));
    docker.docker(&["start", id]).success();
    let running = state();
    assert_eq!(running["Status"], "running");
    assert!(ps().starts_with("Up "), "{}", ps());
    let pid = i32::try_from(running["Pid"].as_i64().expect("a number")).expect("a pid");
    wait_until("its process", DEADLINE, || {
        Process::of(pid).is_some_and(|process| process.command.contains("/app.wasm sleep"))
    });
    docker.docker(&["pause", id]).success();
    assert_eq!(state()["Status"], "paused");
    assert!(ps().contains("(Paused)"), "{}", ps());
    docker.docker(&["unpause", id]).success();
    assert_eq!(state()["Status"], "running");
    docker.docker(&["stop", "--time", "60", id]).success();
    let ended = state();
    assert_eq!((ended["Status"].as_str(), ended["Pid"].as_i64()), (Some("exited"), Some(0)));
    assert_eq!(ended["ExitCode"], 143);
    assert_eq!(ended["OOMKilled"], false);
    assert!(ps().starts_with("Exited (143)"), "{}", ps());
    let time = |key: &str| ended[key].as_str().expect("a time").to_owned();
    assert_eq!(running["StartedAt"].as_str(), Some(&*time("StartedAt")));
    assert!(time("StartedAt") < time("FinishedAt"), "{ended}");
}

fn inspect_tells_why_one_did_not_start(docker: &Docker) {
    let container = docker.create(&Run::new(&kit(false).entrypoint(&["/nope.wasm"])));
    let said = docker.docker(&["start", container.id()]).failure();
    let format = "{{.State.ExitCode}} {{.State.Status}} {{.State.Error}}";
    let kept = docker.inspect(container.id(), format).expect("it is there");
    assert!(said.contains("/nope.wasm") && kept.contains("/nope.wasm"), "{said}{kept}");
    assert!(kept.starts_with("127 created ") || kept.starts_with("127 exited "), "{kept}");
}

on_dockers!(
    wait_tells_the_exit_codes_before_and_after_the_end,
    cp_reaches_a_running_container,
    cp_reaches_one_before_its_start_and_after_its_end,
    what_a_guest_wrote_is_committed_shown_and_exported,
    a_renamed_one_answers_to_its_new_name,
    top_lists_every_process_with_its_arguments,
    stats_are_numbers,
    inspect_and_ps_tell_a_containers_life,
    inspect_tells_why_one_did_not_start,
);
