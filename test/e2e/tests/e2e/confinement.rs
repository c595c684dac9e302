//! A guest is confined as runc confines a native program of the same options, fact by fact.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use wherry_e2e::confined::{Facts, executed, facts, keyring, keyring_holders, sleeps};
use wherry_e2e::{on_dockers, tests_in};
use wherry_testing::{
    Container, Containerd, DEADLINE, Daemon, Docker, Image, Run, busybox, guests, runtime,
    wait_for, wait_until,
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
    docker: bool,
    /// The options of its container.
    options: &'static [&'static str],
}

impl Subject {
    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    fn is_wasm(&self) -> bool {
        self.program == Program::Wasm
    }

    /// Whether the container has a seccomp profile.
    fn has_profile(&self) -> bool {
        if self.docker {
            !self.has("seccomp=unconfined") && !self.has("--privileged")
        } else {
            self.has("--seccomp")
        }
    }
}

/// Whether this machine has cgroups of version 1.
fn version_1() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

/// A difference between runc's process and ours.
struct Difference {
    /// The fact's name; `*` stands for anything without a blank.
    fact: &'static str,
    runc: &'static str,
    /// One of these: engines differ.
    ours: &'static [&'static str],
    /// For which processes.
    when: fn(&Subject) -> bool,
    reason: &'static str,
}

/// The differences that are meant.
const MEANT: &[Difference] = &[
    Difference {
        fact: "NoNewPrivs",
        runc: "0",
        ours: &["1"],
        when: |subject| {
            let given = if subject.docker {
                subject.has("no-new-privileges")
            } else {
                !subject.has("--allow-new-privs")
            };
            subject.is_wasm() && !given
        },
        reason: "an engine's own seccomp filter is added to the container's",
    },
    Difference {
        fact: "Seccomp",
        runc: "0",
        ours: &["2"],
        when: |subject| subject.is_wasm() && !subject.has_profile(),
        reason: "an engine's own seccomp filter is there without the container's",
    },
    Difference {
        fact: "Seccomp_filters",
        runc: "0",
        ours: &["1"],
        when: |subject| subject.is_wasm() && !subject.has_profile(),
        reason: "an engine's own seccomp filter is there without the container's",
    },
    Difference {
        fact: "Seccomp_filters",
        runc: "1",
        ours: &["2"],
        when: |subject| subject.is_wasm() && subject.has_profile(),
        reason: "an engine's own seccomp filter is added to the container's",
    },
    Difference {
        fact: "SigIgn",
        runc: "0000000000000000",
        ours: &["0000000000011000"],
        when: Subject::is_wasm,
        reason: "a guest cannot handle SIGPIPE, and gets an error instead; the kernel reaps for it with SIGCHLD ignored",
    },
    Difference {
        fact: "descriptor 0",
        runc: "pipe 00",
        ours: &["a named pipe for stdin 0100000"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves",
    },
    Difference {
        fact: "descriptor 1",
        runc: "pipe 01",
        ours: &["a named pipe for stdout 0102001"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves; O_NOCTTY changes nothing of a pipe",
    },
    Difference {
        fact: "descriptor 2",
        runc: "pipe 01",
        ours: &["a named pipe for stderr 0102001"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves; O_NOCTTY changes nothing of a pipe",
    },
    Difference {
        fact: "other descriptors",
        runc: "",
        ours: &[
            "/, /dev/urandom, anon_inode, compiled code, socket",
            "/, anon_inode, compiled code, socket",
        ],
        when: |subject| subject.is_wasm() && !subject.has("--workdir"),
        reason: "the engine's own, which a guest cannot name: its root, its code, random numbers, its event loop",
    },
    Difference {
        fact: "other descriptors",
        runc: "",
        ours: &[
            "/, /dev/urandom, /tmp, anon_inode, compiled code, socket",
            "/, /tmp, anon_inode, compiled code, socket",
        ],
        when: |subject| subject.is_wasm() && subject.has("--workdir"),
        reason: "the engine's own, and the working directory",
    },
    Difference {
        fact: "owner in /proc",
        runc: "1234 5678",
        ours: &["0 0"],
        when: |subject| subject.is_wasm() && subject.has("1234:5678"),
        reason: "a guest's process is not dumpable, so that native programs beside it cannot reach into it",
    },
    Difference {
        fact: "owner in /proc",
        runc: "1234 1234",
        ours: &["0 0"],
        when: |subject| subject.is_wasm() && subject.has("1234"),
        reason: "a guest's process is not dumpable, so that native programs beside it cannot reach into it",
    },
    Difference {
        fact: "oom_score_adj",
        runc: "1",
        ours: &["0"],
        when: |subject| !subject.docker,
        reason: "a configuration without a score gives containerd's, not that of the shim, which runc hands on",
    },
];

/// Differences that are faults. A row goes with its repair.
const KNOWN: &[Difference] = &[
    Difference {
        fact: "cgroup \"systemd\"",
        runc: "/SCOPE/ID",
        ours: &["/"],
        when: |_| version_1(),
        reason: "a hierarchy of version 1 without a controller is not entered",
    },
    Difference {
        fact: "cgroup \"\"",
        runc: "/SCOPE/ID",
        ours: &["/"],
        when: |_| version_1(),
        reason: "the hierarchy of version 2 beside those of version 1 is not entered",
    },
    Difference {
        fact: "mount /sys/fs/cgroup/systemd",
        runc: "cgroup cgroup /SCOPE/ID",
        ours: &["cgroup cgroup /"],
        when: |subject| version_1() && subject.docker,
        reason: "libcontainer binds the cgroup that the process is in, which is the root",
    },
    Difference {
        fact: "mount /sys/fs/cgroup/* options",
        runc: "ro,nosuid,nodev,noexec,relatime",
        ours: &["rw,relatime"],
        when: |subject| version_1() && subject.docker && !subject.has("--privileged"),
        reason: "libcontainer's bind mounts of version 1 do not take the options of the configuration",
    },
    Difference {
        fact: "mount /sys/fs/cgroup/* options",
        runc: "rw,nosuid,nodev,noexec,relatime",
        ours: &["rw,relatime"],
        when: |subject| version_1() && subject.docker && subject.has("--privileged"),
        reason: "libcontainer's bind mounts of version 1 do not take the options of the configuration",
    },
    Difference {
        fact: "mount /sys filesystem's options",
        runc: "ro",
        ours: &["rw"],
        when: |subject| !subject.has("--privileged"),
        reason: "libcontainer makes the mount read-only, and not the sysfs of the new network namespace",
    },
    Difference {
        fact: "mount /etc/* propagation",
        runc: "",
        ours: &["master"],
        when: |subject| subject.docker,
        reason: "libcontainer passes over a bind mount's propagation, here rprivate",
    },
    Difference {
        fact: "/dev/cpu",
        runc: "40755 (0, 0)",
        ours: &["40777 (0, 0)"],
        when: |subject| subject.has("--privileged"),
        reason: "libcontainer makes the directories of devices without a umask",
    },
    Difference {
        fact: "/dev/net",
        runc: "40755 (0, 0)",
        ours: &["40777 (0, 0)"],
        when: |subject| subject.has("--privileged"),
        reason: "libcontainer makes the directories of devices without a umask",
    },
];

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
    // Of open files the soft limit is the hard one: Go's runtime in runc raises it, at a moment that varies.
    &["--ulimit", "nofile=200:200", "--ulimit", "core=0", "--ulimit", "fsize=100000:200000"],
    &["--device", "/dev/fuse"],
    &["--pids-limit", "77", "--memory", "64m", "--cpus", "0.5", "--oom-score-adj", "100"],
    &["--userns", "host"],
    &["--workdir", "/tmp", "--tmpfs", "/tmp", "--shm-size", "1m"],
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

/// The facts about a container's first process, once that has begun to sleep.
fn of_first(scope: &str, container: &Container<'_>, program: Program) -> Facts {
    let pid = container.pid();
    wait_until("the first process sleeps", DEADLINE, || sleeps(pid, program.name()));
    facts(pid, container.id(), scope)
}

/// The facts about a program that is executed in a container; it is ended then.
fn of_exec(daemon: &dyn Daemon, container: &Container<'_>, program: Program) -> Facts {
    let (id, first, scope) = (container.id(), container.pid(), daemon.containerd().namespace());
    let holders = keyring_holders(id);
    std::thread::scope(|threads| {
        threads.spawn(move || daemon.exec(id, &program.words(), b""));
        let pid =
            wait_for("the executed program sleeps", DEADLINE, || executed(first, program.name()));
        let mut facts = facts(pid, id, scope);
        facts.insert("keyring".to_owned(), keyring(keyring_holders(id) > holders));
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
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

/// Compares a process with runc's, and says what differs and is not meant to, or does not differ and is.
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
            wrong.push(format!("{}: there is no such fact ({})", row.fact, row.reason));
        }
    }
    wrong
}

fn guests_are_confined_as_runc_confines_native_programs(daemon: &dyn Daemon) {
    // By what is wrong: of which processes.
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
                let subject = Subject { program, exec, docker: daemon.is_docker(), options };
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
