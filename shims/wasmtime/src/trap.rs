//! The texts of Wasmtime's errors.

use std::fmt::Write;

use wasmtime::{FrameInfo, FrameSymbol, Trap as WasmTrap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wherry_engine::{ExitCode, Trap};

/// Converts the result of a call. `proc_exit` unwinds the guest as the error [`I32Exit`].
pub(crate) fn outcome(result: wasmtime::Result<ExitCode>) -> Result<ExitCode, Trap> {
    result.or_else(|error| match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(ExitCode(exit.0.to_le_bytes()[0])),
        None => Err(Trap(text(&error))),
    })
}

/// Formats the error with which a request ended.
pub(crate) fn describe(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => format!("the guest exited with code {}", exit.0),
        None => text(error),
    }
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
    let mut text = match error.downcast_ref::<WasmTrap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if !backtrace.frames().is_empty() {
        text += "\nwasm backtrace:";
    }
    for (number, frame) in backtrace.frames().iter().enumerate() {
        text += &format!("\n  {number:>3}: ");
        if let Some(offset) = frame.module_offset() {
            text += &format!("{offset:#8x} - ");
        }
        text += &function(frame);
    }
    text
}

/// Formats a frame's function, and the functions inlined into it where the module has debug
/// information.
fn function(frame: &FrameInfo) -> String {
    let name = frame
        .func_name()
        .map_or_else(|| format!("<wasm function {}>", frame.func_index()), demangled);
    let lines = frame.symbols().iter().enumerate().map(|(index, symbol)| {
        let inlined = if index == 0 { &*name } else { "<inlined function>" };
        let name = symbol.name().map_or_else(|| inlined.to_owned(), demangled);
        format!("{name}{}", place(symbol))
    });
    let lines: Vec<String> = lines.collect();
    if !lines.is_empty() {
        return lines.join("\n                - ");
    }
    // Most modules have no name.
    frame.module().name().map_or_else(|| name.clone(), |module| format!("{module}!{name}"))
}

fn place(symbol: &FrameSymbol) -> String {
    let Some(file) = symbol.file() else { return String::new() };
    let mut text = format!("\n                    at {file}");
    for number in [symbol.line(), symbol.line().and(symbol.column())].into_iter().flatten() {
        // Writing to a String cannot fail.
        let _ = write!(text, ":{number}");
    }
    text
}

/// Demangles the names of Rust and of C++, which begin with `_R` and `_Z`.
///
/// A demangler of C++ also accepts the codes of types, which makes `float` of a C function `f`.
fn demangled(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return rust.to_string();
    }
    let cpp = Some(name).filter(|name| name.starts_with("_Z"));
    let cpp = cpp.and_then(|name| cpp_demangle::Symbol::new(name).ok()?.demangle().ok());
    cpp.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mangled_names_are_demangled() {
        for (name, shown) in [
            ("f", "f"),
            ("main", "main"),
            ("_Z3addii", "add(int, int)"),
            (
                "_ZN4core9panicking5panic17h0123456789abcdefE",
                "core::panicking::panic::h0123456789abcdef",
            ),
        ] {
            assert_eq!(demangled(name), shown, "{name}");
        }
    }
}
