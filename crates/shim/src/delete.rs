//! `delete`: cleans up after a container whose daemon is dead, using only the files in the bundle,
//! and prints the exit status.

use std::io::{self, Write};
use std::path::Path;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use wherry_bundle::Bundle;
use wherry_supervisor::cleanup::{self, Remains};
use wherry_sys::socket;
use wherry_task::{AskError, DaemonClient};

use crate::args::Args;
use crate::error::{Error, Result};
use crate::group::{self, Sharing};
use crate::{Shim, start};

/// The exit status of a process that SIGKILL ended. This command sends it to all remaining
/// processes.
const KILLED: u32 = 137;

pub(crate) fn delete(shim: Shim, args: &Args) -> Result<()> {
    let path = start::bundle(args)?;
    let bundle = Bundle::new(&path, &args.id);
    // containerd copies standard error to its log.
    wherry_sys::logger::log_to_stderr();
    // containerd runs this command after each Delete too, and waits for it: then a manager serves
    // on, and need not be asked.
    let may_be_dead = shim.sharing == Sharing::Group || bundle.is_used() || bundle.is_pod();
    let left = cleanup::container(&bundle, Remains::read(&bundle).as_ref(), None);
    if may_be_dead {
        remove_dead_socket(shim, args, &path);
    }
    if !left.is_empty() {
        return Err(Error::Cleanup(left));
    }
    let mut response = DeleteResponse::new();
    response.exit_status = KILLED;
    response.exited_at = Some(Timestamp::now()).into();
    let bytes = response
        .write_to_bytes()
        .map_err(|source| Error::Encode { what: "answer to delete", source })?;
    io::stdout().write_all(&bytes).map_err(Error::Print)
}

/// Whether a daemon answers at a socket, as that of a pod does for each container but the last.
/// Without an answer it may live and be busy.
fn lives(socket: &Path) -> bool {
    let client = DaemonClient::connect(socket).map_err(AskError::from);
    let status = client.and_then(|mut daemon| daemon.status());
    matches!(status, Ok(_) | Err(AskError::Refused(_)))
}

/// Removes the socket of the daemon, unless it lives.
fn remove_dead_socket(shim: Shim, args: &Args, bundle: &Path) {
    let socket = start::announced(bundle).unwrap_or_else(|| {
        // Without a readable configuration the container had its own daemon.
        let group = shim.sharing.group(bundle, &args.id);
        let group = group.map_or_else(|_| args.id.clone(), |group| group.name);
        let (address, namespace) = (args.address.as_str(), args.namespace.as_str());
        let key = group::Key { runtime: &shim.name(), address, namespace, group: &group };
        group::socket(None, key)
    });
    if lives(&socket) {
        return;
    }
    socket::remove_dead_socket(&socket);
    if shim.sharing == Sharing::Manager {
        socket::remove_dead_socket(&group::control_socket(&socket));
    }
}
