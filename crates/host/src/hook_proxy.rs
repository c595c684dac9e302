//! The hook proxy: the process that libcontainer runs instead of a container's hooks.
//!
//! libcontainer runs it at the right moment and in the right namespaces; the hooks' directory,
//! environment, state and errors are then those of [`wherry_bundle::hooks`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::process::ExitCode;

use oci_spec::runtime::{Hook, HookBuilder, State};
use wherry_bundle::hooks::Batch;
use wherry_protocol::{Channel, Failure, FailureKind, SetupMessage, SetupReply};

use crate::spec_rewrite::RewriteError;

/// The argument of this executable that runs the hook proxy.
pub const HOOKS: &str = "hooks";

/// The hook that libcontainer runs. `channel` is the setup channel, without close-on-exec. The
/// proxy runs the hooks of `batch` itself; without one it asks the daemon to run those that are
/// due.
pub(crate) fn hook(channel: &OwnedFd, batch: Option<&Batch>) -> Result<Hook, RewriteError> {
    let mut args = vec!["wherry".to_owned(), HOOKS.to_owned(), channel.as_raw_fd().to_string()];
    if let Some(batch) = batch {
        args.push(serde_json::to_string(batch)?);
    }
    let hook = HookBuilder::default().path("/proc/self/exe").args(args);
    Ok(hook.env(Vec::<String>::new()).build()?)
}

/// Runs the hook proxy. `args` are those that [`hook`] has set after [`HOOKS`].
#[must_use]
pub fn hooks(mut args: impl Iterator<Item = String>) -> ExitCode {
    let channel = args.next().and_then(|number| number.parse().ok()).map(adopt);
    let passed = channel.is_some_and(|channel| match args.next() {
        Some(batch) => run(&channel, &batch),
        None => ask(&channel),
    });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs hooks in this process. Its parent is the container's first process.
fn run(channel: &Channel, batch: &str) -> bool {
    let Ok(batch) = serde_json::from_str::<Batch>(batch) else { return false };
    let Err(error) = batch.run(i32::try_from(parent_id()).ok(), None) else { return true };
    let failure = Failure::new(FailureKind::System, error.to_string());
    // A daemon that is gone has no user to report to.
    let _ = channel.send(&SetupMessage::Failed(failure), &[]);
    false
}

/// Asks the daemon to run hooks.
fn ask(channel: &Channel) -> bool {
    let state: Result<State, _> = serde_json::from_reader(io::stdin());
    let pid = state.ok().and_then(|state| *state.pid());
    pid.is_some_and(|pid| channel.send(&SetupMessage::Hooks { pid }, &[]).is_ok())
        && channel
            .receive::<SetupReply>()
            .is_ok_and(|packet| packet.is_some_and(|it| matches!(it.message, SetupReply::Proceed)))
}

#[allow(unsafe_code)]
fn adopt(number: i32) -> Channel {
    // Fails only if the descriptor is closed; then the first use of the channel fails.
    let _ = nix::fcntl::fcntl(
        crate::borrow(number),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    );
    // SAFETY: the caller of the hook proxy has left this descriptor open for it.
    Channel::from_fd(unsafe { OwnedFd::from_raw_fd(number) })
}
