//! A container's AppArmor profile applies to its guest, and to every program that is executed in
//! it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use wherry_e2e::confined::{executed, sleeps};
use wherry_e2e::on_all_daemons;
use wherry_testing::{DEADLINE, Daemon, Image, Run, busybox, guests, wait_for, wait_until};

const NAME: &str = "wherry-test";

/// Allows everything but changes below `/forbidden`.
const PROFILE: &str = "
profile wherry-test flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  mount,
  network,
  ptrace,
  signal,
  umount,
  unix,
  deny /forbidden/** wl,
}
";

/// Loads the profile into the kernel.
fn load() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut command = Command::new("/sbin/apparmor_parser");
        command.args(["--replace", "--skip-cache"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut parser = command.spawn().expect("apparmor_parser runs");
        let mut stdin = parser.stdin.take().expect("piped");
        stdin.write_all(PROFILE.as_bytes()).expect("it reads");
        drop(stdin);
        let output = parser.wait_with_output().expect("our own child");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

/// An image with a module and native programs.
fn image() -> Image {
    busybox().folder("/allowed", 0o777).folder("/forbidden", 0o777).file(
        "/kit.wasm",
        0o755,
        guests::bytes("kit.wasm"),
    )
}

fn run(daemon: &dyn Daemon) -> Run {
    load();
    let option = format!("apparmor={NAME}");
    let words = if daemon.is_docker() {
        ["--security-opt", &*option]
    } else {
        ["--apparmor-profile", NAME]
    };
    Run::new(&image()).extra(&words)
}

/// The profile of a process.
fn profile(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/attr/current")).expect("it runs");
    text.trim().to_owned()
}

/// Starts the container with these words, and expects its profile on the first process, which has
/// the name `name`, and on a module and a native program that are executed in it.
fn all_are_under_the_profile(daemon: &dyn Daemon, words: &[&str], name: &str) {
    let enforced = format!("{NAME} (enforce)");
    let container = daemon.start(&run(daemon).args(words));
    let (id, first) = (container.id(), container.pid());
    wait_until("the first process sleeps", DEADLINE, || sleeps(first, name));
    assert_eq!(profile(first), enforced, "the first process");
    for (words, name) in [(KIT, "kit.wasm"), (BUSYBOX, "busybox")] {
        std::thread::scope(|threads| {
            threads.spawn(move || daemon.exec(id, &words, b""));
            let pid = wait_for("the executed program sleeps", DEADLINE, || executed(first, name));
            let under = profile(pid);
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
            assert_eq!(under, enforced, "{words:?}");
        });
    }
}

const KIT: [&str; 3] = ["/kit.wasm", "sleep", "100000"];
const BUSYBOX: [&str; 3] = ["/bin/busybox", "sleep", "100000"];

fn a_guest_and_what_is_executed_beside_it_are_under_the_profile(daemon: &dyn Daemon) {
    all_are_under_the_profile(daemon, &KIT, "kit.wasm");
}

fn a_native_program_and_what_is_executed_beside_it_are_under_the_profile(daemon: &dyn Daemon) {
    all_are_under_the_profile(daemon, &BUSYBOX, "busybox");
}

fn a_profile_keeps_a_guest_from_writing(daemon: &dyn Daemon) {
    let lines = ["write /allowed/file x", "read /allowed/file", "write /forbidden/file x"];
    let outcome = daemon.run(&run(daemon).args(&["/kit.wasm", "do"]).args(&lines));
    assert_eq!(outcome.code, 1, "only one line fails: {outcome}");
    assert!(outcome.err().contains("/forbidden/file"), "{outcome}");
    // Without the profile the write succeeds.
    let open = Run::new(&image()).args(&["/kit.wasm", "do"]).args(&lines);
    daemon.run(&open).success();
}

fn a_profile_keeps_a_native_program_from_writing(daemon: &dyn Daemon) {
    let script = "echo x > /allowed/file && ! echo x > /forbidden/file";
    daemon.run(&run(daemon).args(&["/bin/sh", "-c", script])).success();
}

fn a_profile_that_is_not_there_is_named(daemon: &dyn Daemon) {
    let words = if daemon.is_docker() {
        ["--security-opt", "apparmor=no-such-profile"]
    } else {
        ["--apparmor-profile", "no-such-profile"]
    };
    let outcome = daemon.run(&Run::new(&image()).extra(&words).args(&KIT));
    assert!(outcome.failure().contains("no-such-profile"), "{outcome}");
}

on_all_daemons!(
    a_guest_and_what_is_executed_beside_it_are_under_the_profile,
    a_native_program_and_what_is_executed_beside_it_are_under_the_profile,
    a_profile_keeps_a_guest_from_writing,
    a_profile_keeps_a_native_program_from_writing,
    a_profile_that_is_not_there_is_named,
);
