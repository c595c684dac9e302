//! A guest in a terminal.

use wherry_e2e::images::{kit, kits};
use wherry_e2e::on_all_daemons;
use wherry_testing::{Daemon, Run, Typed};

const NOTHING: Typed<'_> = Typed { after: "", keys: b"" };
const ALL_TERMINALS: &str = "0 terminal\n1 terminal\n2 terminal\n";

fn all_three_streams_are_terminals(daemon: &dyn Daemon) {
    for kit in kits() {
        let ended = daemon.run_in_terminal(&Run::new(&kit).args(&["tty"]), &NOTHING);
        assert_eq!(ended.code, 0, "{ended}");
        assert!(ended.out().replace('\r', "").contains(ALL_TERMINALS), "{ended}");
    }
}

fn without_one_none_is(daemon: &dyn Daemon) {
    let said = daemon.run(&Run::new(&kit(false)).args(&["tty"])).success();
    assert_eq!(said, "0 no terminal\n1 no terminal\n2 no terminal\n");
}

fn its_exit_code_arrives(daemon: &dyn Daemon) {
    let ended = daemon.run_in_terminal(&Run::new(&kit(false)).args(&["exit", "9"]), &NOTHING);
    assert_eq!(ended.code, 9, "{ended}");
}

fn control_c_interrupts_a_computing_guest(daemon: &dyn Daemon) {
    let typed = Typed { after: "ready", keys: b"\x03" };
    let ended = daemon.run_in_terminal(&Run::new(&kit(false)).args(&["spin"]), &typed);
    assert_eq!(ended.code, 130, "{ended}");
}

fn an_exec_has_one_too(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    // It ends after its client has read: `ctr` may lose output that it has not read when a process
    // ends.
    let typed = Typed { after: "2 terminal", keys: b"\x04" };
    let ended = daemon.exec_in_terminal(container.id(), &["/app.wasm", "do", "tty", "cat"], &typed);
    assert_eq!(ended.code, 0, "{ended}");
    assert!(ended.out().replace('\r', "").contains(ALL_TERMINALS), "{ended}");
}

fn control_c_interrupts_an_exec_alone(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let typed = Typed { after: "ready", keys: b"\x03" };
    let ended = daemon.exec_in_terminal(container.id(), &["/app.wasm", "spin"], &typed);
    assert_eq!(ended.code, 130, "{ended}");
    assert!(!container.ended());
}

on_all_daemons!(
    all_three_streams_are_terminals,
    without_one_none_is,
    its_exit_code_arrives,
    control_c_interrupts_a_computing_guest,
    an_exec_has_one_too,
    control_c_interrupts_an_exec_alone,
);
