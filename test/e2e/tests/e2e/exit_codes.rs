//! A program that cannot start has runc's exit code and cause, fault by fault, as the first process
//! of a container and as an exec.

use std::fs;
use wherry_e2e::images::hello_wasm;
use wherry_e2e::tests_in;
use wherry_testing::{Container, Daemon, Image, Outcome, Run, busybox, runtime};

const RUNC: &str = "io.containerd.runc.v2";

/// A program that cannot start.
struct Fault {
    name: &'static str,
    program: &'static str,
    /// The words that the sentences of both runtimes have.
    cause: &'static str,
    ours: Option<Ours>,
}

/// Docker's exit codes where they are intended to differ from runc's.
struct Ours {
    run: i32,
    exec: i32,
    reason: &'static str,
}

/// Docker reads the text of runc's error as that of a mistake in a mount.
const NOT_A_MOUNT: &str = "a path that names no file is 127, as in a shell";
const USERS_RIGHTS: &str = "runc looks with rights that the user then loses, and starts what fails";
const SHELL: &str = "a name that PATH has without permission is 126, as in a shell";
const BEFORE: &str = "runc says 1 after the start; here it is an error of the start, as in a shell";
const WASM: &str = "runc runs no modules";

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    Fault { name: "a folder", program: "/etc", cause: "permission denied", ours: None },
    Fault { name: "a folder below the working directory", program: "./etc", cause: "permission denied", ours: None },
    Fault { name: "a folder in PATH", program: "folder", cause: "executable file not found", ours: None },
    Fault { name: "a folder that is called like a module", program: "/module.wasm", cause: "permission denied", ours: None },
    Fault { name: "a missing file", program: "/missing", cause: "no such file or directory", ours: None },
    Fault { name: "a missing module", program: "/missing.wasm", cause: "no such file or directory", ours: None },
    Fault { name: "a name that is not in PATH", program: "missing", cause: "executable file not found", ours: None },
    Fault { name: "a loop of links", program: "/loop", cause: "too many levels of symbolic links", ours: None },
    Fault { name: "a dangling link", program: "/dangling", cause: "no such file or directory", ours: None },
    Fault { name: "a name that is too long", program: TOO_LONG, cause: "file name too long", ours: None },
    Fault { name: "a script without permission", program: "/plain/script", cause: "permission denied", ours: None },
    Fault { name: "a program without permission", program: "/plain/program", cause: "permission denied", ours: None },
    Fault { name: "a device", program: "/dev/null", cause: "permission denied", ours: None },
    Fault { name: "a file below a file", program: "/etc/passwd/x", cause: "", ours: Some(Ours { run: 127, exec: 127, reason: NOT_A_MOUNT }) },
    Fault { name: "a file in a closed folder", program: "/closed/tool", cause: "", ours: Some(Ours { run: 126, exec: 126, reason: USERS_RIGHTS }) },
    Fault { name: "a program of another user", program: "/plain/private", cause: "", ours: Some(Ours { run: 126, exec: 126, reason: USERS_RIGHTS }) },
    Fault { name: "a name without permission in PATH", program: "script", cause: "", ours: Some(Ours { run: 126, exec: 126, reason: SHELL }) },
    Fault { name: "a script without its interpreter", program: "/faulty/script", cause: "no such file or directory", ours: Some(Ours { run: 127, exec: 127, reason: BEFORE }) },
    Fault { name: "a program without its loader", program: "/faulty/loaderless", cause: "no such file or directory", ours: Some(Ours { run: 127, exec: 127, reason: BEFORE }) },
    Fault { name: "a script whose interpreter is a folder", program: "/faulty/in-folder", cause: "permission denied", ours: Some(Ours { run: 126, exec: 126, reason: BEFORE }) },
    Fault { name: "a program for another processor", program: "/faulty/foreign", cause: "exec format error", ours: Some(Ours { run: 125, exec: 128, reason: BEFORE }) },
    Fault { name: "a damaged program", program: "/faulty/damaged", cause: "exec format error", ours: Some(Ours { run: 125, exec: 128, reason: BEFORE }) },
    Fault { name: "an empty file", program: "/faulty/empty", cause: "", ours: Some(Ours { run: 126, exec: 126, reason: BEFORE }) },
    Fault { name: "a text", program: "/faulty/text", cause: "", ours: Some(Ours { run: 126, exec: 126, reason: BEFORE }) },
    Fault { name: "a damaged module", program: "/faulty/damaged.wasm", cause: "", ours: Some(Ours { run: 125, exec: 128, reason: WASM }) },
    Fault { name: "a module without permission", program: "/plain/hello.wasm", cause: "", ours: Some(Ours { run: 0, exec: 0, reason: WASM }) },
];

const TOO_LONG: &str = "/\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// The image, whose user is not root.
fn image() -> Image {
    // A dynamic program of this machine, whose loader the image does not have.
    let dynamic = fs::read("/bin/true").expect("a program");
    // e_machine: s390.
    let mut foreign = dynamic.clone();
    foreign[18..20].copy_from_slice(&[22, 0]);
    busybox()
        .user("1234:1234")
        .env("PATH", "/bin:/path:/plain")
        .folder("/path/folder", 0o755)
        .folder("/module.wasm", 0o755)
        .link("/loop", "loop")
        .link("/dangling", "missing")
        .folder("/closed", 0o700)
        .file("/closed/tool", 0o755, "#!/bin/sh\n")
        .file("/plain/script", 0o644, "#!/bin/sh\n")
        .file("/plain/program", 0o644, dynamic.clone())
        .file("/plain/private", 0o700, dynamic.clone())
        .file("/plain/hello.wasm", 0o644, hello_wasm())
        .file("/faulty/empty", 0o755, "")
        .file("/faulty/text", 0o755, "just a note\n")
        .file("/faulty/foreign", 0o755, foreign)
        .file("/faulty/damaged", 0o755, &dynamic[..40])
        .file("/faulty/damaged.wasm", 0o755, &hello_wasm()[..40])
        .file("/faulty/loaderless", 0o755, dynamic)
        .file("/faulty/script", 0o755, "#!/missing/sh\n")
        .file("/faulty/in-folder", 0o755, "#!/etc\n")
}

/// The rows in which an outcome differs from runc's or from the declared one.
fn compare(fault: &Fault, how: &str, docker: bool, runc: &Outcome, ours: &Outcome) -> Vec<String> {
    let declared = fault
        .ours
        .as_ref()
        .map(|ours| (if how == "run" { ours.run } else { ours.exec }, ours.reason));
    // ctr fails with 1, or with the code of a process that has run.
    let expected = match declared {
        Some((code, _)) if docker => code,
        _ => runc.code,
    };
    let differs = ours.code != expected && (docker || declared.is_none());
    // A row without a difference is an old one. Some differ in `docker run` alone.
    let old = docker && how == "run" && declared.is_some() && ours.code == runc.code;
    let mut wrong = Vec::new();
    if differs || old {
        let reason = declared.map_or("", |(_, reason)| reason);
        wrong
            .push(format!("{how} {}: runc {}, ours {} {reason}", fault.name, runc.code, ours.code));
    }
    for (name, outcome) in [("runc", runc), ("ours", ours)] {
        let said = format!("{}{}", outcome.out(), outcome.err());
        if !said.contains(fault.cause) {
            wrong.push(format!(
                "{how} {}: {name} does not say {:?}: {said}",
                fault.name, fault.cause
            ));
        }
    }
    wrong
}

fn a_program_that_cannot_start_has_runcs_exit_code_and_cause(daemon: &dyn Daemon) {
    let docker = daemon.is_docker();
    let run = |runtime: &str, program: &str| {
        daemon.run(&Run::new(&image()).runtime(runtime).args(&[program]))
    };
    let sleeping = |runtime: &str| {
        daemon.start(&Run::new(&image()).runtime(runtime).args(&["/bin/sleep", "100000"]))
    };
    let (theirs, own) = (sleeping(RUNC), sleeping(&runtime()));
    let exec =
        |container: &Container<'_>, program: &str| daemon.exec(container.id(), &[program], b"");
    let wrong: Vec<String> = FAULTS
        .iter()
        .flat_map(|fault| {
            let one = |runtime: &str| run(runtime, fault.program);
            let mut wrong = compare(fault, "run", docker, &one(RUNC), &one(&runtime()));
            let execs = (exec(&theirs, fault.program), exec(&own, fault.program));
            wrong.extend(compare(fault, "exec", docker, &execs.0, &execs.1));
            wrong
        })
        .collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

tests_in!(
    docker_28,
    Docker::shared(DockerVersion::V28),
    a_program_that_cannot_start_has_runcs_exit_code_and_cause
);
tests_in!(
    containerd_2,
    Containerd::shared(ContainerdVersion::V2),
    a_program_that_cannot_start_has_runcs_exit_code_and_cause
);
