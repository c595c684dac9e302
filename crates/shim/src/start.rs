//! `start`: prints the address of the daemon that serves a container, and makes that daemon when
//! there is none.
//!
//! containerd waits for this program, so nothing slow is done here: the socket is bound, the
//! daemon forked, the address printed. containerd's connection waits in the socket's backlog
//! until the daemon takes it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use wherry_protocol::RuntimeOptions;
use wherry_supervisor::launch::HostProgram;
use wherry_sys::daemon;
use wherry_sys::socket::{self, Listen};

use crate::args::Args;
use crate::serve::{self, Daemon, OwnName};
use crate::{Shim, caller, group};

/// More than any options are.
const OPTIONS_MAX: u64 = 1 << 20;

pub(crate) fn start(shim: Shim, args: &Args) -> Result<(), String> {
    let bundle = bundle(args)?;
    // Found before anything is made: afterwards there is something to undo, and after the fork
    // nobody to tell.
    let program = HostProgram::find(shim.engine).map_err(|failure| failure.message)?;
    let group = group::of(&bundle, &args.id)?;
    let socket = group::socket(shim, args, &group);
    let address = format!("unix://{}", socket.display());
    let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    let (listener, name) = match socket::serve_at(&socket)
        .map_err(|error| failed(&format!("listen on {}", socket.display()), error))?
    {
        Listen::Bound(listener, name) => (listener, name),
        Listen::Served => {
            announce(&bundle, &address)?;
            return Ok(());
        }
    };
    let options = options();
    match daemon::fork_off(&listener) {
        Ok(true) => return announce(&bundle, &address),
        Ok(false) => {}
        Err(error) => {
            name.remove();
            return Err(failed("start the daemon", error));
        }
    }
    let daemon = Daemon {
        engine: shim.engine,
        listener,
        name: OwnName(name),
        program,
        namespace: args.namespace.clone(),
        bundle,
        shim_cgroup: options.shim_cgroup,
        debug: args.debug,
    };
    // From here on this is the daemon, and does not return.
    serve::serve(daemon)
}

/// The bundle, absolute: the daemon leaves this directory.
pub(crate) fn bundle(args: &Args) -> Result<PathBuf, String> {
    let given = if args.bundle.is_empty() { "." } else { &args.bundle };
    Path::new(given)
        .canonicalize()
        .map_err(|error| format!("cannot find the bundle {given}: {error}"))
}

/// The answer to `start`: `BootstrapParams` of containerd's `pkg/shim`.
#[derive(serde::Serialize)]
struct Bootstrap<'a> {
    /// Of the Task API.
    version: u32,
    address: &'a str,
    protocol: &'static str,
}

/// Leaves the address where a restarted containerd 1.6 looks for it (later ones keep the answer
/// themselves), and prints the answer.
fn announce(bundle: &Path, address: &str) -> Result<(), String> {
    let path = bundle.join("address");
    daemon::write_atomically(&path, address)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let answer = answer(address, caller::speaks_version_3())?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(answer.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("cannot print the address: {error}"))
}

/// The answer in the form that containerd takes. The daemon serves version 2 of the Task API beside version
/// 3, for a containerd that finds a container which another version of it started.
fn answer(address: &str, version_3: bool) -> Result<String, String> {
    if !version_3 {
        return Ok(address.to_owned());
    }
    serde_json::to_string(&Bootstrap { version: 3, address, protocol: "ttrpc" })
        .map_err(|error| format!("cannot write the answer: {error}"))
}

/// The runtime's options, which containerd up to 2.2 writes to our standard input. Later ones
/// write something else: then Create says all that matters.
fn options() -> RuntimeOptions {
    let mut bytes = Vec::new();
    let _ = io::stdin().lock().take(OPTIONS_MAX).read_to_end(&mut bytes);
    Any::parse_from_bytes(&bytes)
        .ok()
        .and_then(|any| wherry_task::parse_options(Some(&any)).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn the_address_is_said_as_containerd_takes_it() {
        let address = "unix:///run/containerd/s/0";
        assert_eq!(answer(address, false).unwrap(), address);
        assert_eq!(
            answer(address, true).unwrap(),
            r#"{"version":3,"address":"unix:///run/containerd/s/0","protocol":"ttrpc"}"#
        );
    }
}
