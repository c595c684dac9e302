//! Capabilities of the engine under test beyond modules of WASI preview 1.

use crate::engine;

/// A capability that not every engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Components, and with them the sockets of preview 2.
    Components,
    /// A trap's message names the functions on the stack.
    Backtraces,
    /// Modules are compiled ahead of time.
    Compiler,
    /// The first start of a module uses code that is compiled quickly.
    QuickCode,
    /// WasmEdge's sockets for modules.
    Sockets,
    /// WasmEdge's plug-ins.
    Plugins,
}

impl Capability {
    /// The reason why an engine without this capability skips a test, for the reader of a table.
    pub fn reason(self) -> &'static str {
        match self {
            Components => "the guest is a component, and this engine runs modules only",
            Backtraces => "this engine's traps have no backtrace",
            Compiler => "this engine compiles nothing",
            QuickCode => "this engine compiles its best code at once",
            Sockets => "this engine's modules have no sockets",
            Plugins => "this engine has no plug-ins",
        }
    }
}

use Capability::{Backtraces, Compiler, Components, Plugins, QuickCode, Sockets};

/// The capabilities of each engine: the only declaration for the end-to-end tests.
const ENGINES: &[(&str, &[Capability])] = &[
    ("wasmtime", &[Compiler, Components, Backtraces]),
    ("wasmedge", &[Compiler, QuickCode, Sockets, Plugins]),
    ("wamr", &[]),
];

/// Whether the engine under test has this capability.
pub fn can(capability: Capability) -> bool {
    engine_can(&engine(), capability)
}

/// Whether the named engine has this capability.
pub fn engine_can(engine: &str, capability: Capability) -> bool {
    let found = ENGINES.iter().find(|(name, _)| *name == engine);
    let (_, capabilities) = found.unwrap_or_else(|| {
        panic!("the capabilities of {engine} are not declared in crates/testing/src/engine.rs")
    });
    capabilities.contains(&capability)
}
