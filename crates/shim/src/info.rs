//! `-info` and `-v`: what this runtime is, for containerd and for people.

use std::io::{self, Write};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use serde_json::{Value, json};

use crate::Shim;

/// The version of this project.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The type under which containerd knows a runtime's features, which are JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a `RuntimeInfo`. containerd 2 asks with the runtime's options on our standard input;
/// nothing of the answer depends on them.
pub(crate) fn info(shim: Shim) -> Result<(), String> {
    let mut version = RuntimeVersion::new();
    version.version = VERSION.to_owned();
    let mut info = RuntimeInfo::new();
    info.name = shim.runtime();
    info.version = Some(version).into();
    let mut features = Any::new();
    features.type_url = FEATURES.to_owned();
    features.value = serde_json::to_vec(&self::features()).map_err(|error| error.to_string())?;
    info.features = Some(features).into();
    let bytes = info.write_to_bytes().map_err(|error| error.to_string())?;
    print(&bytes)
}

/// What a container may ask for, as the runtime specification has it (features.md). Kubernetes
/// takes `hostUsers: false` for a runtime that maps ids, and containerd such a mount.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false},
            "seccomp": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    })
}

/// Prints the version in the form of containerd's own shims.
pub(crate) fn version(shim: Shim) -> Result<(), String> {
    print(format!("{}:\n  Version:  {VERSION}\n", shim.runtime()).as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), String> {
    io::stdout().write_all(bytes).map_err(|error| format!("cannot print: {error}"))
}
