//! `delete`: cleans up what a dead daemon left, from the disk alone, and prints how it ended.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use wherry_bundle::Bundle;
use wherry_supervisor::cleanup;
use wherry_sys::socket;

use crate::args::Args;
use crate::{Shim, group, start};

/// The status of a process that SIGKILL ended, as all that is left here is.
const KILLED: u32 = 137;

pub(crate) fn delete(shim: Shim, args: &Args) -> Result<(), String> {
    let path = start::bundle(args)?;
    let bundle = Bundle::new(&path, &args.id);
    // containerd takes what is said there into its log.
    wherry_sys::logger::log_to_stderr();
    let left: Vec<String> =
        cleanup::container(&bundle, None).iter().map(ToString::to_string).collect();
    // Without a readable configuration the daemon was this container's own.
    let group = group::of(&path, &args.id).unwrap_or_else(|_| args.id.clone());
    socket::remove_dead_socket(&group::socket(shim, args, &group));
    if !left.is_empty() {
        return Err(left.join("; "));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut at = Timestamp::new();
    at.seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    at.nanos = i32::try_from(now.subsec_nanos()).unwrap_or(0);
    let mut response = DeleteResponse::new();
    response.exit_status = KILLED;
    response.exited_at = Some(at).into();
    let bytes = response.write_to_bytes().map_err(|error| error.to_string())?;
    io::stdout().write_all(&bytes).map_err(|error| format!("cannot print the result: {error}"))
}
