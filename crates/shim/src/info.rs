//! `-info`, `-v` and `-h`: name, version and features of this runtime.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use wherry_protocol::message::ENGINE_VERSION;
use wherry_supervisor::Program;
use wherry_supervisor::settings::Settings;

use crate::error::{Error, Result};
use crate::{Shim, args, features};

/// The version of this project.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// containerd's type URL of a runtime's features, which are JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a `RuntimeInfo`. containerd 2 writes the runtime options to standard input; the answer
/// does not depend on them.
pub(crate) fn info(shim: Shim) -> Result<()> {
    let mut version = RuntimeVersion::new();
    version.version = VERSION.to_owned();
    let mut info = RuntimeInfo::new();
    info.name = shim.runtime();
    info.version = Some(version).into();
    let mut any = Any::new();
    any.type_url = FEATURES.to_owned();
    any.value = features::features().into_bytes();
    info.features = Some(any).into();
    let bytes = info
        .write_to_bytes()
        .map_err(|source| Error::Encode { what: "answer to -info", source })?;
    print(&bytes)
}

/// Prints the version in the form of containerd's own shims, with the engine's version.
pub(crate) fn version(shim: Shim) -> Result<()> {
    let mut lines = format!("{}:\n  Version:  {VERSION}\n", shim.runtime());
    let mut add = |engine: &str| lines.extend(["  Engine:   ", engine, "\n"]);
    match shim.engines(&Settings::read()) {
        Ok(engines) => engines.iter().for_each(|engine| add(&engine_version(&engine.host))),
        Err(failure) => add(&failure.message),
    }
    print(lines.as_bytes())
}

/// Prints the usage.
pub(crate) fn help(shim: Shim) -> Result<()> {
    let usage = args::USAGE;
    version(shim)?;
    let operator = shim.operator.map_or("", |operator| operator.usage());
    print(format!("usage: {}{usage}{operator}", shim.executable()).as_bytes())
}

/// Returns the engine's version from the engine host, because no engine is linked into the shim; or
/// the reason why the host does not answer.
fn engine_version(program: &Program) -> String {
    let path = program.path();
    let output = Command::new(path).arg(ENGINE_VERSION).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(output) => format!("unknown: {} failed: {}", path.display(), output.status),
        Err(error) => format!("unknown: cannot run {}: {error}", path.display()),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    io::stdout().write_all(bytes).map_err(Error::Print)
}
