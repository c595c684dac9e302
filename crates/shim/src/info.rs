//! `-info` and `-v`: what this runtime is, for containerd and for people.

use std::io::{self, Write};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::Shim;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints a `RuntimeInfo`. containerd 2 asks with the runtime's options on our standard input;
/// nothing of the answer depends on them.
pub(crate) fn info(shim: Shim) -> Result<(), String> {
    let mut version = RuntimeVersion::new();
    version.version = VERSION.to_owned();
    let mut info = RuntimeInfo::new();
    info.name = shim.runtime();
    info.version = Some(version).into();
    let bytes = info.write_to_bytes().map_err(|error| error.to_string())?;
    print(&bytes)
}

/// Prints the version in the form of containerd's own shims.
pub(crate) fn version(shim: Shim) -> Result<(), String> {
    print(format!("{}:\n  Version:  {VERSION}\n", shim.runtime()).as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), String> {
    io::stdout().write_all(bytes).map_err(|error| format!("cannot print: {error}"))
}
