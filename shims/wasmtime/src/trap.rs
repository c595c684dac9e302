//! The texts of Wasmtime's errors.

use wasmtime::{Trap as WasmTrap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wherry_engine::{ExitCode, Trap};

/// Converts the result of a call. `proc_exit` unwinds the guest as the error [`I32Exit`].
pub(crate) fn outcome(result: wasmtime::Result<ExitCode>) -> Result<ExitCode, Trap> {
    result.or_else(|error| match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(ExitCode(exit.0.to_le_bytes()[0])),
        None => Err(Trap(text(&error))),
    })
}

/// Formats an error and its causes in one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Formats a trap: the cause, and below it the backtrace. An error before the guest's first
/// instruction has no backtrace, and all its causes are shown.
fn text(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return one_line(error) };
    let cause = match error.downcast_ref::<WasmTrap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    // Most modules have no name, which Wasmtime shows as `<unknown>!`.
    let frames = backtrace.to_string().replace("<unknown>!", "");
    match frames.split_once('\n') {
        Some((_, frames)) if !frames.trim().is_empty() => {
            format!("{cause}\nwasm backtrace:\n{frames}")
        }
        _ => cause,
    }
}
