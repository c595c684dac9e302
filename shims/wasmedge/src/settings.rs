//! What compiler and executor must agree in.

use wasmedge_sdk::config::{CommonConfigOptions, Config, ConfigBuilder};
use wasmedge_sdk::{RunMode, WasmEdgeResult};

/// What begins the output where WasmEdge has no compiler: the module itself follows, its length first.
pub(crate) const INTERPRETED: &[u8; 8] = b"\0interp\0";

/// The options of a run.
pub(crate) fn config(mode: RunMode) -> WasmEdgeResult<Config> {
    builder(mode).build()
}

/// The same, for more to be added.
pub(crate) fn builder(mode: RunMode) -> ConfigBuilder {
    ConfigBuilder::new(CommonConfigOptions::new().run_mode(mode))
}
