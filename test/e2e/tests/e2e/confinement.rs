//! A guest is confined as runc confines a native program of the same options, fact by fact.

use std::collections::BTreeMap;
use std::fs;
use wherry_e2e::confined::{Facts, facts, keyring, keyring_holders};
use wherry_e2e::{on_dockers, tests_in};
use wherry_testing::{
    Container, Containerd, DEADLINE, Daemon, Docker, Image, Run, busybox, guests, processes,
    runtime, wait_for, wait_until,
};

const RUNC: &str = "io.containerd.runc.v2";

/// The words of a program that sleeps, and the name that the kernel shows of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Wasm,
    Native,
}

impl Program {
    fn words(self) -> [&'static str; 3] {
        match self {
            Program::Wasm => ["/kit.wasm", "sleep", "100000"],
            Program::Native => ["/bin/busybox", "sleep", "100000"],
        }
    }

    fn name(self) -> &'static str {
        if self == Program::Wasm { "kit.wasm" } else { "busybox" }
    }
}

/// A process that is compared with runc's: what it runs, and whether it was executed in a running container.
#[derive(Clone, Copy)]
struct Subject {
    program: Program,
    exec: bool,
    /// The options of its container.
    options: &'static [&'static str],
}

/// A difference that is meant.
struct Meant {
    fact: &'static str,
    runc: &'static str,
    ours: &'static str,
    when: fn(&Subject) -> bool,
    reason: &'static str,
}

const MEANT: &[Meant] = &[];

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
    &["--ulimit", "nofile=100:200", "--ulimit", "core=0"],
    &["--device", "/dev/fuse"],
    &["--pids-limit", "77", "--memory", "64m", "--cpus", "0.5", "--oom-score-adj", "100"],
    &["--userns", "host"],
    &["--init", "--workdir", "/tmp", "--tmpfs", "/tmp", "--shm-size", "1m"],
];

/// Those of `ctr run`.
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

/// A module and native programs, without an entrypoint.
fn image() -> Image {
    busybox().folder("/tmp", 0o777).file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
}

fn status(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

/// Whether the process runs its program, and has come to where that sleeps.
fn sleeps(pid: i32, program: Program) -> bool {
    status(pid, "Name").is_some_and(|name| name == program.name())
        && status(pid, "State").is_some_and(|state| state.starts_with('S'))
}

/// The facts about a container's first process, once that has begun to sleep.
fn of_first(container: &Container<'_>, program: Program) -> Facts {
    let pid = container.pid();
    wait_until("the first process sleeps", DEADLINE, || sleeps(pid, program));
    facts(pid, container.id())
}

/// The facts about a program that is executed in a container; it is ended then.
fn of_exec(daemon: &dyn Daemon, container: &Container<'_>, program: Program) -> Facts {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (id, first) = (container.id(), container.pid());
    let (inside, holders) = (namespace(first), keyring_holders(id));
    std::thread::scope(|scope| {
        scope.spawn(move || daemon.exec(id, &program.words(), b""));
        let pid = wait_for("the executed program sleeps", DEADLINE, || {
            let mut others = processes().into_iter().map(|process| process.pid);
            others.find(|pid| {
                let rest = status(*pid, "NSpid").is_some_and(|pids| !pids.ends_with("\t1"));
                rest && namespace(*pid) == inside && sleeps(*pid, program)
            })
        });
        let mut facts = facts(pid, id);
        facts.insert("keyring".to_owned(), keyring(keyring_holders(id) > holders));
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        facts
    })
}

/// Compares a process with runc's, and says what differs and is not meant to, or does not differ and is.
fn compare(subject: &Subject, runc: &Facts, ours: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut meant: Vec<&Meant> = MEANT.iter().filter(|meant| (meant.when)(subject)).collect();
    let mut names: Vec<&String> = runc.keys().chain(ours.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let value = |facts: &Facts| facts.get(name).cloned().unwrap_or_else(|| "absent".into());
        let (runc, ours) = (value(runc), value(ours));
        let row = meant.iter().position(|meant| meant.fact == name).map(|at| meant.remove(at));
        match row {
            Some(row) if (row.runc, row.ours) == (&*runc, &*ours) => {}
            Some(row) => wrong.push(format!(
                "{name}: runc {runc:?}, ours {ours:?}; {:?} and {:?} are meant ({})",
                row.runc, row.ours, row.reason
            )),
            None if runc != ours => wrong.push(format!("{name}: runc {runc:?}, ours {ours:?}")),
            None => {}
        }
    }
    wrong.extend(meant.iter().map(|meant| format!("no such fact: {}", meant.fact)));
    wrong
}

fn guests_are_confined_as_runc_confines_native_programs(daemon: &dyn Daemon) {
    // By what is wrong: of which processes.
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for &options in if daemon.is_docker() { DOCKER } else { CTR } {
        let start = |runtime: &str, program: Program| {
            let run = Run::new(&image()).runtime(runtime).extra(options);
            daemon.start(&run.args(&program.words()))
        };
        let reference = start(RUNC, Program::Native);
        let first = of_first(&reference, Program::Native);
        let exec = of_exec(daemon, &reference, Program::Native);
        reference.remove();
        for program in [Program::Wasm, Program::Native] {
            let container = start(&runtime(), program);
            let ours = [of_first(&container, program), of_exec(daemon, &container, program)];
            for (exec, theirs, ours) in [(false, &first, &ours[0]), (true, &exec, &ours[1])] {
                let subject = Subject { program, exec, options };
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

on_dockers!(guests_are_confined_as_runc_confines_native_programs);
tests_in!(
    containerd_2,
    Containerd::shared(ContainerdVersion::V2),
    guests_are_confined_as_runc_confines_native_programs
);
