//! Wasmtime's settings. The text of this file is part of the compile key: another setting is other code.

use wasmtime::{Config, InstanceAllocationStrategy, WasmBacktraceDetails};

/// How deep a guest's own calls may go, in bytes. Wasmtime's default of half as much is too little
/// for deeply recursive interpreters. Only what is touched is paid for.
const WASM_STACK: usize = 1 << 20;

/// How modules are compiled and run.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(2 * WASM_STACK)
        // The system's unwinder never walks wasm frames here, and registering them takes time at
        // every start.
        .native_unwind_info(false)
        // From the module's own debug information, if it has any. Read only when a guest traps.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}
