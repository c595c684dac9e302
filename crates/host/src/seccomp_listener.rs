//! The connection to the listener of a seccomp profile with the action `SCMP_ACT_NOTIFY`, for a
//! process that joins a container.
//!
//! libcontainer sends the profile's descriptor to the listener for a container's first process
//! only. In exec the new process loads the profile itself ([`crate::confinement`]), where the path
//! of the listener's socket does not exist. So the engine host connects before it forks, and the
//! new process sends the descriptor over that connection, at once: a system call that the profile
//! reports waits until the listener answers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use libcontainer::container::Container;
use libcontainer::seccomp;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    ContainerProcessState, ContainerProcessStateBuilder, ContainerState, LinuxSeccomp,
    SECCOMP_FD_NAME, StateBuilder,
};
use wherry_bundle::Bundle;

use crate::adopt;
use crate::error::LibraryError;

/// Why the descriptor of a profile could not be sent to its listener.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error("linux.seccomp.listenerPath is missing: the profile has the action SCMP_ACT_NOTIFY")]
    NoPath,
    #[error("cannot connect to the seccomp listener {}: {source}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("cannot read the container's state for the seccomp listener: {0}")]
    State(LibraryError),
    #[error("cannot describe the container's state to the seccomp listener: {0}")]
    Build(#[from] OciSpecError),
    #[error("cannot open /proc: {0}")]
    Procfs(io::Error),
    #[error("cannot send to the seccomp listener: {0}")]
    Send(io::Error),
}

/// A connection to a listener, and the message for it.
pub(crate) struct Listener {
    socket: UnixStream,
    state: ContainerProcessState,
    /// The host's procfs, where a process finds its pid in the host's pid namespace.
    procfs: OwnedFd,
}

impl Listener {
    /// Connects to the listener of a profile. Returns None if the profile needs no listener.
    pub(crate) fn connect(
        profile: &LinuxSeccomp,
        bundle: &Bundle,
    ) -> Result<Option<Listener>, ListenerError> {
        if !seccomp::is_notify(profile) {
            return Ok(None);
        }
        let path = profile.listener_path().as_ref().ok_or(ListenerError::NoPath)?;
        let socket = UnixStream::connect(path)
            .map_err(|source| ListenerError::Connect { path: path.clone(), source })?;
        let state = state(profile, bundle)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let procfs = nix::fcntl::open("/proc", flags, Mode::empty())
            .map_err(|errno| ListenerError::Procfs(errno.into()))?;
        Ok(Some(Listener { socket, state, procfs }))
    }

    /// Sends a profile's descriptor, from the process that has just loaded the profile.
    pub(crate) fn send(&self, descriptor: RawFd) -> Result<(), ListenerError> {
        // libseccomp has opened it for this process.
        self.try_send(&adopt(descriptor)).map_err(ListenerError::Send)
    }

    fn try_send(&self, descriptor: &OwnedFd) -> io::Result<()> {
        let mut state = self.state.clone();
        let pid = readlinkat(&self.procfs, "self")?;
        let pid = pid.to_str().and_then(|pid| pid.parse().ok());
        let missing = || io::Error::other("this process has no pid in the host's pid namespace");
        state.set_pid(pid.ok_or_else(missing)?);
        let message = serde_json::to_vec(&state)?;
        let descriptors = [descriptor.as_raw_fd()];
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[io::IoSlice::new(&message)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }
}

/// The state that the specification sends to a listener, without the pid of the process.
fn state(profile: &LinuxSeccomp, bundle: &Bundle) -> Result<ContainerProcessState, ListenerError> {
    let container = Container::load(bundle.state())
        .map_err(|error| ListenerError::State(LibraryError::new(error)))?;
    let version = oci_spec::runtime::VERSION;
    let mut state = StateBuilder::default()
        .version(version)
        .id(bundle.id())
        .status(ContainerState::Running)
        .bundle(bundle.path().to_owned())
        .annotations(container.state.annotations.clone().unwrap_or_default());
    if let Some(pid) = container.pid() {
        state = state.pid(pid.as_raw());
    }
    let mut process = ContainerProcessStateBuilder::default()
        .version(version)
        .fds(vec![SECCOMP_FD_NAME.to_owned()])
        .state(state.build()?);
    if let Some(metadata) = profile.listener_metadata() {
        process = process.metadata(metadata.clone());
    }
    Ok(process.build()?)
}
