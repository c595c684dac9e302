//! The listener of a seccomp profile that asks another process (`SCMP_ACT_NOTIFY`), for a process that joins a container.
//!
//! libcontainer hands the profile's descriptor to the listener for a container's first process only. In exec the profile is loaded
//! by the new process itself ([`super::exec::Confinement`]), from where the listener's socket cannot be found: so the engine host
//! connects before it forks, and the new process sends the descriptor over the connection, at once: a call that is notified waits
//! until somebody at the other end answers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use libcontainer::container::Container;
use libcontainer::seccomp;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use oci_spec::runtime::{
    ContainerProcessState, ContainerProcessStateBuilder, ContainerState, LinuxSeccomp,
    SECCOMP_FD_NAME, StateBuilder,
};

use wherry_bundle::Bundle;

/// A connection to the listener, and what goes over it.
pub(crate) struct Listener {
    socket: UnixStream,
    state: ContainerProcessState,
    /// The host's procfs, in which a process finds its pid outside of the container.
    procfs: OwnedFd,
}

impl Listener {
    /// Connects to the listener that a profile names. None: the profile asks no other process.
    ///
    /// # Errors
    /// When there is none at the profile's path, or the profile has no path.
    pub(crate) fn connect(
        profile: &LinuxSeccomp,
        bundle: &Bundle,
    ) -> Result<Option<Listener>, String> {
        if !seccomp::is_notify(profile) {
            return Ok(None);
        }
        let path =
            profile.listener_path().as_ref().ok_or("linux.seccomp.listenerPath is missing")?;
        let failed = |cause: String| {
            format!("cannot reach the seccomp listener {}: {cause}", path.display())
        };
        let socket = UnixStream::connect(path).map_err(|error| failed(error.to_string()))?;
        let state = state(profile, bundle).map_err(failed)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let procfs = nix::fcntl::open("/proc", flags, Mode::empty())
            .map_err(|errno| failed(errno.to_string()))?;
        Ok(Some(Listener { socket, state, procfs }))
    }

    /// Sends a profile's descriptor, in the process that has just loaded the profile.
    pub(crate) fn send(&self, descriptor: RawFd) -> Result<(), String> {
        // SAFETY: libseccomp has made it for this process.
        #[allow(unsafe_code)]
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        self.try_send(&descriptor)
            .map_err(|error| format!("cannot send to the seccomp listener: {error}"))
    }

    fn try_send(&self, descriptor: &OwnedFd) -> io::Result<()> {
        let mut state = self.state.clone();
        let pid = readlinkat(&self.procfs, "self")?;
        let pid = pid.to_str().and_then(|pid| pid.parse().ok());
        state.set_pid(
            pid.ok_or_else(|| {
                io::Error::other("this process has no pid outside of the container")
            })?,
        );
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

/// What the specification has a listener be sent, but for the pid of the process.
fn state(profile: &LinuxSeccomp, bundle: &Bundle) -> Result<ContainerProcessState, String> {
    let container = Container::load(bundle.state()).map_err(|error| super::sentence(&error))?;
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
        .state(state.build().map_err(|error| error.to_string())?);
    if let Some(metadata) = profile.listener_metadata() {
        process = process.metadata(metadata.clone());
    }
    process.build().map_err(|error| error.to_string())
}
