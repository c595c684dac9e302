//! WasmEdge's settings, which compiler and executor share.

use wasmedge_sdk::config::{CommonConfigOptions, Config, ConfigBuilder};
use wasmedge_sdk::{RunMode, WasmEdgeResult};

/// The first bytes of the output of a WasmEdge without a compiler. The module's length and the
/// module follow.
pub(crate) const INTERPRETED: &[u8; 8] = b"\0interp\0";

/// Returns the configuration of a run mode.
pub(crate) fn config(mode: RunMode) -> WasmEdgeResult<Config> {
    builder(mode).build()
}

/// Returns the builder of that configuration, for further options.
pub(crate) fn builder(mode: RunMode) -> ConfigBuilder {
    ConfigBuilder::new(CommonConfigOptions::new().run_mode(mode))
}
