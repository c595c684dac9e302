//! The options of `docker run` about the process: its arguments, its limits, its end.

use std::fs;
use wherry_e2e::images::{binary, hello_fields, kit, spin, text};
use wherry_e2e::inside::{field, look, of};
use wherry_e2e::on_dockers;
use wherry_testing::{DEADLINE, Daemon, Docker, Image, Run, busybox, guests, wait_until};

/// The kit beside a native root filesystem.
fn both() -> Image {
    busybox().file("/kit.wasm", 0o755, guests::bytes("kit.wasm")).entrypoint(&["/kit.wasm"])
}

fn another_entrypoint_takes_the_images_place(docker: &Docker) {
    let image = kit(false).file("/other.wasm", 0o644, binary(&text(&hello_fields("greet"))));
    let run = Run::new(&image).extra(&["--entrypoint", "/other.wasm#greet"]);
    assert_eq!(docker.run(&run).success(), "hello\n");
}

fn environment_directory_and_labels_are_the_users(docker: &Docker) {
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let file = dir.path().join("env");
    fs::write(&file, "# a comment\nFROM_FILE=two words\nBOTH=file\n").expect("our own folder");
    let file = file.display().to_string();
    let words = ["--env-file", &file, "--env", "BOTH=option", "--workdir", "/work/new"];
    let said = look(docker, &kit(false), &words, &["show"]);
    for line in ["env FROM_FILE=two words", "env BOTH=option", "env PWD=/work/new"] {
        assert!(said.lines().any(|found| found == line), "'{line}' is not in {said}");
    }
    let container = docker.start(&Run::new(&spin()).extra(&["--label", "colour=green"]));
    let colour = docker.inspect(container.id(), r#"{{index .Config.Labels "colour"}}"#);
    assert_eq!(colour.as_deref(), Some("green"));
}

fn limits_of_resources_are_the_guests(docker: &Docker) {
    let line = "read /proc/self/limits";
    let ulimit = |value| ["--ulimit", value];
    let words = [ulimit("nofile=77:99"), ulimit("core=0"), ulimit("nproc=500"), ulimit("fsize=64")];
    let said = look(docker, &kit(false), &words.concat(), &[line]);
    for (name, limits) in [
        ("Max open files", ["77", "99"]),
        ("Max core file size", ["0", "0"]),
        ("Max processes", ["500", "500"]),
        ("Max file size", ["64", "64"]),
    ] {
        assert_eq!(field(&said, name)[..2], limits, "{name}");
    }
}

fn an_impossible_limit_is_named(docker: &Docker) {
    let words = ["--ulimit", "nofile=4000000000:4000000000"];
    let outcome = docker.run(&Run::new(&kit(false)).extra(&words));
    assert_eq!(outcome.code, 125, "{outcome}");
    let wanted = "cannot set the limit of open files to 4000000000: this kernel allows ";
    assert!(outcome.err().contains(wanted), "{outcome}");
}

fn kernel_parameters_are_the_containers(docker: &Docker) {
    let words = ["--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.msgmax=9000"];
    let (one, two) = ("read /proc/sys/net/core/somaxconn", "read /proc/sys/kernel/msgmax");
    let said = look(docker, &kit(false), &words, &[one, two]);
    assert_eq!((of(&said, one), of(&said, two)), ("77\n", "9000\n"));
}

fn an_unknown_kernel_parameter_is_named(docker: &Docker) {
    let run = Run::new(&kit(false)).extra(&["--sysctl", "net.core.nope=1"]);
    let outcome = docker.run(&run);
    assert_eq!(outcome.code, 125, "{outcome}");
    assert!(outcome.err().contains("cannot set sysctl net.core.nope: "), "{outcome}");
}

fn the_kernels_choice_of_a_victim_is_told(docker: &Docker) {
    let line = "read /proc/self/oom_score_adj";
    assert_eq!(of(&look(docker, &kit(false), &[], &[line]), line), "0\n");
    let said = look(docker, &kit(false), &["--oom-score-adj", "500"], &[line]);
    assert_eq!(of(&said, line), "500\n");
}

fn the_stop_signal_is_the_users(docker: &Docker) {
    let container = docker.start(&Run::new(&spin()).extra(&["--stop-signal", "USR1"]));
    container.wait_for_output("ready\n");
    docker.docker(&["stop", "--time", "60", container.id()]).success();
    assert_eq!(container.wait(), 138);
}

fn what_does_not_stop_is_killed_after_its_time(docker: &Docker) {
    let script = "trap '' TERM; echo ready; while true; do sleep 0.1; done";
    let run = Run::new(&busybox()).args(&["sh", "-c", script]).extra(&["--stop-timeout", "1"]);
    let container = docker.start(&run);
    container.wait_for_output("ready\n");
    docker.docker(&["stop", container.id()]).success();
    assert_eq!(container.wait(), 137);
}

/// No init program could execute a module: the guest's process does its work.
fn with_init_a_guest_runs(docker: &Docker) {
    let image = kit(false).file("/hello.wasm", 0o644, guests::bytes("hello.wasm"));
    let said = look(docker, &image, &["--init"], &["show", "read /proc/self/status"]);
    assert_eq!(said.lines().nth(1), Some("arg kit"), "{said}");
    assert_eq!((field(&said, "Name"), field(&said, "Pid")), (vec!["app.wasm"], vec!["1"]));
    let run = Run::new(&image).extra(&["--init", "--entrypoint", "hello.wasm"]);
    assert_eq!(docker.run(&run).success(), "hello from a guest\n");
    let container = docker.start(&Run::new(&spin()).extra(&["--init"]));
    container.wait_for_output("ready\n");
    docker.docker(&["stop", "--time", "60", container.id()]).success();
    assert_eq!(container.wait(), 143);
}

fn with_init_a_native_program_has_one(docker: &Docker) {
    let script = "echo pid $$; exec sleep 100000";
    let run = Run::new(&busybox()).args(&["sh", "-c", script]).extra(&["--init"]);
    let container = docker.start(&run);
    container.wait_for_output("pid ");
    assert_ne!(container.stdout(), b"pid 1\n");
    docker.docker(&["stop", "--time", "60", container.id()]).success();
    assert_eq!(container.wait(), 143);
}

fn with_init_a_missing_program_is_named(docker: &Docker) {
    let run = Run::new(&kit(false)).extra(&["--init", "--entrypoint", "/nope.wasm"]);
    let outcome = docker.run(&run);
    assert_eq!(outcome.code, 127, "{outcome}");
    assert!(outcome.err().contains(r#"exec "/nope.wasm": no such file"#), "{outcome}");
}

fn a_guest_leaves_no_zombies(docker: &Docker) {
    for options in [&[][..], &["--init"]] {
        let run = Run::new(&both()).args(&["sleep", "100000"]).extra(options);
        let container = docker.start(&run);
        // The shell ends first: its child is reparented to the guest, and ends there.
        let script = "(sh -c 'while ! rm /go 2> /dev/null; do sleep 0.1; done' &)";
        docker.exec(container.id(), &["/bin/sh", "-c", script], b"").success();
        let others = || docker.docker(&["top", container.id()]).success().lines().count() - 2;
        assert!(others() > 0, "it waits for a word");
        fs::write(format!("/proc/{}/root/go", container.pid()), "").expect("its root is there");
        wait_until("all of it is gone", DEADLINE, || others() == 0);
    }
}

on_dockers!(
    another_entrypoint_takes_the_images_place,
    environment_directory_and_labels_are_the_users,
    limits_of_resources_are_the_guests,
    an_impossible_limit_is_named,
    kernel_parameters_are_the_containers,
    an_unknown_kernel_parameter_is_named,
    the_kernels_choice_of_a_victim_is_told,
    the_stop_signal_is_the_users,
    what_does_not_stop_is_killed_after_its_time,
    with_init_a_guest_runs,
    with_init_a_native_program_has_one,
    with_init_a_missing_program_is_named,
    a_guest_leaves_no_zombies,
);
