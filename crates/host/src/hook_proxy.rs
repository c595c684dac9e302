//! The hook proxy: the process that libcontainer runs instead of a container's hooks.
//!
//! libcontainer runs it at the right moment and in the right namespaces; the hooks' directory,
//! environment, state and errors are then those of [`wherry_bundle::hooks`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use nix::unistd::getppid;
use oci_spec::runtime::{Hook, HookBuilder, State};
use wherry_bundle::hooks::{Batch, HookError};
use wherry_protocol::{Channel, Failure, FailureKind, SetupMessage, SetupReply};

use crate::spec_rewrite::RewriteError;

/// The argument of this executable that runs the hook proxy.
pub const HOOKS: &str = "hooks";

/// The hook that libcontainer runs. `channel` is the setup channel, without close-on-exec. The
/// proxy runs the hooks of `batch` itself; without a batch it asks the daemon to run the hooks that
/// are due.
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
    // Without the descriptor the proxy cannot report an error.
    let channel = args.next().and_then(|number| number.parse().ok()).map(adopt);
    let Some(channel) = channel else { return ExitCode::FAILURE };
    let passed = match args.next() {
        Some(batch) => run(&batch),
        None => ask(&channel),
    };
    match passed {
        Ok(()) => ExitCode::SUCCESS,
        Err(HookProxyError::Refused) => ExitCode::FAILURE,
        Err(error) => {
            let failure = Failure::new(FailureKind::System, error.to_string());
            // A daemon that is gone has no user to report to.
            let _ = channel.send(&SetupMessage::Failed(failure), &[]);
            ExitCode::FAILURE
        }
    }
}

/// Why the hook proxy fails.
#[derive(Debug, thiserror::Error)]
enum HookProxyError {
    #[error("cannot parse the hooks of the hook proxy: {0}")]
    Batch(serde_json::Error),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("cannot parse the state that libcontainer passes to a hook: {0}")]
    State(serde_json::Error),
    #[error("libcontainer passes no pid to a hook")]
    NoPid,
    #[error("cannot ask the daemon to run hooks: {0}")]
    Channel(#[from] io::Error),
    /// A hook failed. The daemon knows why.
    #[error("the daemon refuses to continue after the hooks")]
    Refused,
}

/// Runs hooks in this process. Its parent is the container's first process.
fn run(batch: &str) -> Result<(), HookProxyError> {
    let batch: Batch = serde_json::from_str(batch).map_err(HookProxyError::Batch)?;
    Ok(batch.run(Some(getppid().as_raw()), None)?)
}

/// Asks the daemon to run hooks.
fn ask(channel: &Channel) -> Result<(), HookProxyError> {
    let state: State = serde_json::from_reader(io::stdin()).map_err(HookProxyError::State)?;
    let pid = state.pid().ok_or(HookProxyError::NoPid)?;
    channel.send(&SetupMessage::Hooks { pid }, &[])?;
    match channel.receive::<SetupReply>()? {
        Some(packet) if matches!(packet.message, SetupReply::Proceed) => Ok(()),
        _ => Err(HookProxyError::Refused),
    }
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
