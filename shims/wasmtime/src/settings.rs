//! Wasmtime's settings. This file's text is part of the compile key: other settings give other
//! code.

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

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

/// Returns the configuration for compiling servers, and for running one whose instances are
/// allocated one by one. A guest can be interrupted, which makes its code some percent slower: a
/// program has a process for itself and needs no such checks.
pub(crate) fn server() -> Config {
    let mut config = config();
    config.epoch_interruption(true);
    config
}

/// What the instances of a server need at most.
#[derive(Clone, Copy)]
pub(crate) struct Pool {
    /// The number of instances.
    pub(crate) instances: u32,
    /// The size of a linear memory, bytes.
    pub(crate) memory: u64,
    /// The linear memories of an instance.
    pub(crate) memories: u32,
    /// The tables of an instance.
    pub(crate) tables: u32,
}

/// How much of a linear memory and of a table an instance leaves mapped for the next one, bytes,
/// after it was cleared: each page less is a page fault more in each request.
const MEMORY_KEPT: usize = 256 << 10;
const TABLE_KEPT: usize = 8 << 10;

/// The largest table of a module, in elements. It takes address space only.
const TABLE: usize = 100_000;

/// Returns the configuration for running a server whose instances come from a pool: an address
/// range for each memory, table and stack, which is mapped once.
pub(crate) fn pooled(pool: Pool) -> Config {
    let mut allocation = PoolingAllocationConfig::new();
    allocation
        .total_component_instances(pool.instances)
        .total_core_instances(u32::MAX)
        .total_memories(pool.instances.saturating_mul(pool.memories))
        .total_tables(pool.instances.saturating_mul(pool.tables))
        .total_stacks(pool.instances)
        .total_gc_heaps(pool.instances)
        .max_memory_size(usize::try_from(pool.memory).unwrap_or(usize::MAX))
        .max_memories_per_module(pool.memories)
        .max_tables_per_module(pool.tables)
        .table_elements(TABLE)
        // These bound heap memory, which the component determines.
        .max_core_instance_size(16 << 20)
        .max_component_instance_size(64 << 20);
    allocation.table_keep_resident(TABLE_KEPT);
    // Linux 6.7 names the pages that an instance has written. Without that the whole range would be
    // written, which takes longer than the page faults.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        allocation.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(MEMORY_KEPT);
    }
    let mut config = server();
    config.allocation_strategy(allocation);
    config
}
