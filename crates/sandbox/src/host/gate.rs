//! The process that libcontainer runs in place of a container's hooks.
//!
//! It knows the right moment and has entered the right namespaces; the hooks' directory,
//! environment, state and errors are then ours.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::process::ExitCode;

use oci_spec::runtime::{Hook, HookBuilder, State};

use crate::hooks::Batch;
use crate::protocol::{Channel, FromGuest, ToGuest};

/// The command of this executable that is the gate.
pub const GATE: &str = "hooks";

/// The hook that libcontainer runs. `channel`: the guest's, open also after exec. With a batch its
/// hooks are run in the gate, without one the daemon is asked to run what is due.
pub(super) fn hook(channel: &OwnedFd, batch: Option<&Batch>) -> Result<Hook, String> {
    let mut args = vec!["wherry".to_owned(), GATE.to_owned(), channel.as_raw_fd().to_string()];
    if let Some(batch) = batch {
        args.push(serde_json::to_string(batch).map_err(|error| error.to_string())?);
    }
    HookBuilder::default()
        .path("/proc/self/exe")
        .args(args)
        .env(Vec::<String>::new())
        .build()
        .map_err(|error| error.to_string())
}

/// Is the gate: `args` are what [`hook`] put behind its name.
#[must_use]
pub fn gate(mut args: impl Iterator<Item = String>) -> ExitCode {
    let channel = args.next().and_then(|number| number.parse().ok()).map(adopt);
    let passed = channel.is_some_and(|channel| match args.next() {
        Some(batch) => run(&channel, &batch),
        None => ask(&channel),
    });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs hooks here. The container's first process is the one that runs the gate.
fn run(channel: &Channel, batch: &str) -> bool {
    let Ok(batch) = serde_json::from_str::<Batch>(batch) else { return false };
    let Err(failure) = batch.run(i32::try_from(parent_id()).ok(), None) else { return true };
    // If the daemon is gone there is nobody to tell.
    let _ = channel.send(&FromGuest::Failed(failure), &[]);
    false
}

/// Has the daemon run hooks.
fn ask(channel: &Channel) -> bool {
    let state: Result<State, _> = serde_json::from_reader(io::stdin());
    let pid = state.ok().and_then(|state| *state.pid());
    pid.is_some_and(|pid| channel.send(&FromGuest::Hooks { pid }, &[]).is_ok())
        && channel
            .receive::<ToGuest>()
            .is_ok_and(|packet| packet.is_some_and(|it| matches!(it.message, ToGuest::GoOn)))
}

#[allow(unsafe_code)]
fn adopt(number: i32) -> Channel {
    let _ = nix::fcntl::fcntl(
        super::borrow(number),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    );
    // SAFETY: whoever runs this executable as the gate names a descriptor that it left open for it.
    Channel::from_fd(unsafe { OwnedFd::from_raw_fd(number) })
}
