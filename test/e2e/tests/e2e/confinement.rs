//! A guest is confined as runc confines a native program with the same options, fact by fact.
//! `differences` lists the differences.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};
use wherry_e2e::confined::{Facts, executed, facts, keyring, keyring_holders, sleeps};
use wherry_e2e::tests_in;
use wherry_testing::{
    Container, DEADLINE, Daemon, DockerVersion, Image, Process, Run, busybox, guests, runtime,
    wait_for, wait_until,
};

mod differences;

use differences::{Difference, KNOWN, MEANT, Program, Subject};

const RUNC: &str = "io.containerd.runc.v2";

/// The time in which the kernel releases the keyring of a process that has ended.
const RELEASE: Duration = Duration::from_secs(1);

/// The options of `docker run`.
const DOCKER: &[&[&str]] = &[
    &[],
    &["--user", "1234:5678", "--group-add", "77"],
    &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"],
    &["--user", "1234", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"],
    &["--security-opt", "no-new-privileges"],
    &["--security-opt", "seccomp=unconfined"],
    &["--read-only"],
    &["--privileged"],
    // The soft limit of open files equals the hard one: Go's runtime in runc raises it, at a
    // varying moment.
    &["--ulimit", "nofile=200:200", "--ulimit", "core=0", "--ulimit", "fsize=100000:200000"],
    &["--device", "/dev/fuse"],
    &["--pids-limit", "77", "--memory", "64m", "--cpus", "0.5", "--oom-score-adj", "100"],
    &["--userns", "host"],
    &["--workdir", "/tmp", "--tmpfs", "/tmp", "--shm-size", "1m"],
];

/// The options of `ctr run`.
const CTR: &[&[&str]] = &[
    &[],
    &["--user", "1234:5678"],
    &["--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_TIME"],
    &["--allow-new-privs"],
    &["--seccomp"],
    &["--read-only"],
    &["--privileged"],
    &["--device", "/dev/fuse"],
    &["--memory-limit", "67108864", "--cpus", "0.5"],
];

/// An image with a module and native programs, without an entrypoint.
fn image() -> Image {
    busybox().folder("/tmp", 0o777).file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
}

/// The facts about a container's first process, once it sleeps.
fn of_first(scope: &str, container: &Container<'_>, program: Program) -> Facts {
    let pid = container.pid();
    wait_until("the first process sleeps", DEADLINE, || sleeps(pid, program.name()));
    facts(pid, container.id(), scope)
}

/// The facts about a program that is executed in a container, and then ended.
fn of_exec(daemon: &dyn Daemon, container: &Container<'_>, program: Program) -> Facts {
    let (id, first, scope) = (container.id(), container.pid(), daemon.containerd().namespace());
    std::thread::scope(|threads| {
        threads.spawn(move || daemon.exec(id, &program.words(), b""));
        let pid =
            wait_for("the executed program sleeps", DEADLINE, || executed(first, program.name()));
        let mut facts = facts(pid, id, scope);
        let holders = keyring_holders(id);
        let process = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        wait_until("the executed program has ended", DEADLINE, || Process::of(pid).is_none());
        // The references of the process end with it, at the kernel's leisure (RCU).
        let end = Instant::now() + RELEASE;
        while keyring_holders(id) >= holders && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        facts.insert("keyring".to_owned(), keyring(keyring_holders(id) < holders));
        facts
    })
}

/// Whether a row is about the fact of this name.
fn is_about(row: &Difference, name: &str) -> bool {
    match row.fact.split_once('*') {
        Some((start, end)) => name
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|anything| !anything.contains(' ')),
        None => row.fact == name,
    }
}

/// Compares a process with runc's; returns the unlisted differences, and the rows without a
/// difference.
fn compare(subject: &Subject, runc: &Facts, ours: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    let rows: Vec<&Difference> =
        MEANT.iter().chain(KNOWN).filter(|row| (row.when)(subject)).collect();
    let names: BTreeSet<&String> = runc.keys().chain(ours.keys()).collect();
    for name in &names {
        let value = |facts: &Facts| facts.get(*name).cloned().unwrap_or_else(|| "absent".into());
        let (runc, ours) = (value(runc), value(ours));
        match rows.iter().find(|row| is_about(row, name)) {
            Some(row) if row.runc == runc && row.ours.contains(&&*ours) => {}
            Some(row) => wrong.push(format!(
                "{name}: runc {runc:?}, ours {ours:?}; {:?} and {:?} are expected ({})",
                row.runc, row.ours, row.reason
            )),
            None if runc != ours => wrong.push(format!("{name}: runc {runc:?}, ours {ours:?}")),
            None => {}
        }
    }
    for row in rows {
        if !names.iter().any(|name| is_about(row, name)) {
            wrong.push(format!("{}: the fact is missing ({})", row.fact, row.reason));
        }
    }
    wrong
}

fn guests_are_confined_as_runc_confines_native_programs(daemon: &dyn Daemon) {
    // The processes of each fault.
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let scope = daemon.containerd().namespace();
    for &options in if daemon.is_docker() { DOCKER } else { CTR } {
        let start = |runtime: &str, program: Program| {
            let run = Run::new(&image()).runtime(runtime).extra(options);
            daemon.start(&run.args(&program.words()))
        };
        let reference = start(RUNC, Program::Native);
        let first = of_first(scope, &reference, Program::Native);
        let exec = of_exec(daemon, &reference, Program::Native);
        reference.remove();
        for program in [Program::Wasm, Program::Native] {
            let container = start(&runtime(), program);
            let ours = [of_first(scope, &container, program), of_exec(daemon, &container, program)];
            for (exec, theirs, ours) in [(false, &first, &ours[0]), (true, &exec, &ours[1])] {
                let (docker, newest_runc) =
                    (daemon.is_docker(), daemon.name() == DockerVersion::V29.name());
                let subject = Subject { program, docker, newest_runc, options };
                let how = if exec { " executed" } else { "" };
                let about = format!("{}{how} [{}]", program.name(), options.join(" "));
                for text in compare(&subject, theirs, ours) {
                    wrong.entry(text).or_default().push(about.clone());
                }
            }
            container.remove();
        }
    }
    let list: Vec<String> =
        wrong.iter().map(|(text, whose)| format!("{text}\n    {}", whose.join("; "))).collect();
    assert!(list.is_empty(), "{} differences:\n{}", list.len(), list.join("\n"));
}

tests_in!(
    docker_26,
    Docker::shared(DockerVersion::V26),
    guests_are_confined_as_runc_confines_native_programs
);
tests_in!(
    docker_28,
    Docker::shared(DockerVersion::V28),
    guests_are_confined_as_runc_confines_native_programs
);
tests_in!(
    docker_29,
    Docker::shared(DockerVersion::V29),
    guests_are_confined_as_runc_confines_native_programs
);
tests_in!(
    containerd_2,
    Containerd::shared(ContainerdVersion::V2),
    guests_are_confined_as_runc_confines_native_programs
);
