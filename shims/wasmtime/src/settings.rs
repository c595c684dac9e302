//! Wasmtime's settings. This file's text is part of the compile key: other settings give other
//! code.

use wasmtime::{Config, InstanceAllocationStrategy, WasmBacktraceDetails};

/// The size of a guest's call stack, in bytes. Wasmtime's default of half as much is too little for
/// deeply recursive interpreters. Only touched pages take memory.
const WASM_STACK: usize = 1 << 20;

/// Returns the configuration for compiling and running modules.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(2 * WASM_STACK)
        // The system's unwinder never walks wasm frames here, and registering them would delay
        // every start.
        .native_unwind_info(false)
        // From the module's debug information, which is read only when a guest traps.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}
