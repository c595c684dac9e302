//! What the engine that the tests are about can do beyond modules of WASI preview 1.

use crate::engine;

/// Something that not every engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Components, and with them the sockets of preview 2.
    Components,
    /// A trap names the functions that it happened in.
    Backtraces,
    /// Modules are compiled ahead of time.
    Compiler,
    /// A module's first start takes code that is made quickly.
    QuickCode,
    /// WasmEdge's sockets for modules.
    Sockets,
    /// WasmEdge's plug-ins.
    Plugins,
}

impl Capability {
    /// Why an engine without it does not do what needs it, for a person who reads a table.
    pub fn reason(self) -> &'static str {
        match self {
            Components => "the guest is a component, and this engine runs modules only",
            Backtraces => "this engine does not know where a trap happened",
            Compiler => "this engine compiles nothing",
            QuickCode => "this engine's best code is made at once",
            Sockets => "this engine's modules have no sockets",
            Plugins => "this engine has no plug-ins",
        }
    }
}

use Capability::{Backtraces, Compiler, Components, Plugins, QuickCode, Sockets};

/// What each engine can do: the one place where it is declared for the end-to-end tests.
const ENGINES: &[(&str, &[Capability])] = &[
    ("wasmtime", &[Compiler, Components, Backtraces]),
    ("wasmedge", &[Compiler, QuickCode, Sockets, Plugins]),
    ("wamr", &[]),
];

/// Whether the engine that the tests are about can do this.
pub fn can(capability: Capability) -> bool {
    engine_can(&engine(), capability)
}

/// Whether that engine can do this.
pub fn engine_can(engine: &str, capability: Capability) -> bool {
    let found = ENGINES.iter().find(|(name, _)| *name == engine);
    let (_, capabilities) = found.unwrap_or_else(|| {
        panic!("nobody has declared what {engine} can do: see crates/testing/src/engine.rs")
    });
    capabilities.contains(&capability)
}
