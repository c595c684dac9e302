//! Signals end a guest as they end any program, and exit codes show the cause.

use wherry_e2e::images::{cat, exit, spin, trap};
use wherry_e2e::on_all_daemons;
use wherry_testing::{Capability, Daemon, Run, can};

/// Starts a guest, sends it a signal and returns its exit code.
fn code_after(daemon: &dyn Daemon, run: &Run, ready: Option<&str>, signal: &str) -> i32 {
    let container = daemon.start(run);
    // With `ctr` the first output may have gone to the client that started it.
    if let Some(text) = ready.filter(|_| daemon.is_docker()) {
        container.wait_for_output(text);
    }
    container.kill(signal);
    container.wait()
}

fn term_ends_a_computing_guest(daemon: &dyn Daemon) {
    assert_eq!(code_after(daemon, &Run::new(&spin()), Some("ready\n"), "TERM"), 143);
}

fn int_ends_a_computing_guest(daemon: &dyn Daemon) {
    assert_eq!(code_after(daemon, &Run::new(&spin()), Some("ready\n"), "INT"), 130);
}

fn kill_ends_a_computing_guest(daemon: &dyn Daemon) {
    assert_eq!(code_after(daemon, &Run::new(&spin()), Some("ready\n"), "KILL"), 137);
}

fn term_ends_a_waiting_guest(daemon: &dyn Daemon) {
    let mut container = daemon.start(&Run::new(&cat()));
    container.say(b"here\n");
    container.wait_for_output("here\n");
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

fn term_right_after_start_ends_the_guest(daemon: &dyn Daemon) {
    // Ten times: the signal meets the guest at different stages of its start.
    for _ in 0..10 {
        assert_eq!(code_after(daemon, &Run::new(&spin()), None, "TERM"), 143);
    }
}

fn any_deadly_signal_ends_the_guest(daemon: &dyn Daemon) {
    // The last one is a real-time signal.
    for (signal, code) in [("HUP", 129), ("QUIT", 131), ("USR1", 138), ("37", 165)] {
        let found = code_after(daemon, &Run::new(&spin()), Some("ready\n"), signal);
        assert_eq!(found, code, "{signal}");
    }
}

fn a_signal_that_kills_nobody_changes_nothing(daemon: &dyn Daemon) {
    let mut container = daemon.start(&Run::new(&cat()));
    for signal in ["WINCH", "CHLD", "CONT"] {
        container.kill(signal);
        container.say(format!("after {signal}\n").as_bytes());
        container.wait_for_output(&format!("after {signal}\n"));
    }
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
}

fn the_guests_own_code_is_handed_on(daemon: &dyn Daemon) {
    for code in [0, 1, 7, 126, 255] {
        let outcome = daemon.run(&Run::new(&exit(code)));
        assert_eq!(outcome.code, i32::from(code), "{outcome}");
        assert_eq!((outcome.out(), outcome.err()), (String::new(), String::new()));
    }
}

fn a_trap_is_134_with_message_and_backtrace(daemon: &dyn Daemon) {
    let outcome = daemon.run(&Run::new(&trap()));
    assert_eq!(outcome.code, 134, "{outcome}");
    assert_eq!(outcome.out(), "");
    let backtrace = can(Capability::Backtraces).then_some("culprit");
    for word in ["unreachable"].into_iter().chain(backtrace) {
        assert!(outcome.err().contains(word), "'{word}' is missing: {outcome}");
    }
}

fn a_kill_after_the_end_is_refused(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&spin()));
    container.kill("KILL");
    wherry_testing::wait_until("the end", wherry_testing::DEADLINE, || container.ended());
    assert_ne!(container.try_kill("TERM").code, 0);
    assert_eq!(container.wait(), 137);
}

on_all_daemons!(
    term_ends_a_computing_guest,
    int_ends_a_computing_guest,
    kill_ends_a_computing_guest,
    term_ends_a_waiting_guest,
    term_right_after_start_ends_the_guest,
    any_deadly_signal_ends_the_guest,
    a_signal_that_kills_nobody_changes_nothing,
    the_guests_own_code_is_handed_on,
    a_trap_is_134_with_message_and_backtrace,
    a_kill_after_the_end_is_refused,
);
