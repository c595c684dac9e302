//! The end of a guest: exit codes and traps.

use super::Host;
use super::host::Ended;

pub fn a_guest_ends_with_its_exit_code(host: &Host) {
    assert_eq!(host.guest(r#"(func (export "_start"))"#).run().code, 0);
    // A process's exit code has eight bits.
    for (given, expected) in [(0, 0), (1, 1), (42, 42), (126, 126), (255, 255), (259, 3)] {
        let guest = format!(
            r#"(func (export "_start") (call $proc_exit (i32.const {given})) unreachable)"#
        );
        let ended = host.guest(&guest).run();
        assert_eq!(ended.code, expected, "{given}: {}", ended.stderr);
        assert_eq!(ended.stderr, "", "{given}");
    }
}

/// Runs a guest that prints "ready" and then does `fault` in the function `culprit`.
fn trap(host: &Host, fault: &str) -> Ended {
    let guest = format!(
        r#"(func $culprit (param $zero i32) {fault})
           (func (export "_start") (call $ready) (call $culprit (i32.const 0)))"#
    );
    let ended = host.guest(&guest).run();
    assert_eq!(ended.code, 134, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"ready\n");
    ended
}

fn traps(host: &Host, fault: &str, message: &str) {
    let ended = trap(host, fault);
    assert!(ended.stderr.contains(message), "{:?} does not say {message:?}", ended.stderr);
}

pub fn unreachable_traps(host: &Host) {
    traps(host, "unreachable", "unreachable");
}

pub fn an_access_out_of_bounds_traps(host: &Host) {
    traps(host, "(drop (i32.load (i32.const 0x7fffffff)))", "out of bounds");
}

pub fn endless_recursion_traps(host: &Host) {
    traps(host, "(call $culprit (i32.const 0)) (call $ready)", "stack");
}

pub fn a_division_by_zero_traps(host: &Host) {
    traps(host, "(drop (i32.div_u (i32.const 1) (local.get $zero)))", "divide by zero");
}

pub fn a_trap_names_the_functions(host: &Host) {
    let ended = trap(host, "unreachable");
    let (message, backtrace) = ended.stderr.split_once('\n').expect("a message and a backtrace");
    assert!(message.contains("unreachable"), "{message:?}");
    assert!(backtrace.contains("culprit"), "{backtrace:?}");
}
