//! What Wasmtime's errors say to a person.

use wasmtime::{Trap as WasmTrap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wherry_engine::{ExitCode, Trap};

/// How a call ended. A guest that exits of itself unwinds as an error of its own kind.
pub(crate) fn outcome(result: wasmtime::Result<ExitCode>) -> Result<ExitCode, Trap> {
    result.or_else(|error| match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(ExitCode(exit.0.to_le_bytes()[0])),
        None => Err(Trap(text(&error))),
    })
}

/// An error and its causes, in one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The cause first, and below it where it happened. Before the guest's first instruction there is
/// no such place, and then all the causes count.
fn text(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return one_line(error) };
    let cause = match error.downcast_ref::<WasmTrap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    // Few modules have a name; the others' functions need no stand-in before theirs.
    let frames = backtrace.to_string().replace("<unknown>!", "");
    match frames.split_once('\n') {
        Some((_, frames)) if !frames.trim().is_empty() => {
            format!("{cause}\nwasm backtrace:\n{frames}")
        }
        _ => cause,
    }
}
