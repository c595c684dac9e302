//! What the engine that the tests are about can do beyond modules of WASI preview 1.

use crate::engine;

/// Something that not every engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Components, and with them the sockets of preview 2.
    Components,
    /// A trap names the functions that it happened in.
    Backtraces,
    /// A module's first start takes code that is made quickly.
    QuickCode,
    /// WasmEdge's sockets for modules.
    Sockets,
}

use Capability::{Backtraces, Components, QuickCode, Sockets};

/// What each engine can do: the one place where it is declared for the end-to-end tests.
const ENGINES: &[(&str, &[Capability])] =
    &[("wasmtime", &[Components, Backtraces]), ("wasmedge", &[QuickCode, Sockets])];

/// Whether the engine that the tests are about can do this.
pub fn can(capability: Capability) -> bool {
    let engine = engine();
    let found = ENGINES.iter().find(|(name, _)| *name == engine);
    let (_, capabilities) = found.unwrap_or_else(|| {
        panic!("nobody has declared what {engine} can do: see crates/testing/src/engine.rs")
    });
    capabilities.contains(&capability)
}
