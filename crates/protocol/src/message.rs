//! The messages between the daemon, the engine host and the process that becomes a guest.
//!
//! ```text
//! daemon ── ForkHost ─────▶ zygote         beside it: the channel of the new host
//! daemon ◀─ HostForked ──── zygote
//! daemon ── HostRequest ──▶ host           one per process; beside it: Descriptors
//! daemon ◀─ SetupMessage ── host, process  before Start, over the setup channel
//! daemon ── SetupReply ───▶ host, process
//! daemon ◀─ HostReply ───── host           the process exists, or was not started
//! ```

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::failure::Failure;
use crate::options::RuntimeOptions;

/// The argument with which a shim asks the engine host's executable for the engine's version.
pub const ENGINE_VERSION: &str = "engine-version";

/// The argument that makes the engine host's executable an engine host.
pub const HOST: &str = "host";

/// The argument that makes it a zygote: a process that forks engine hosts.
pub const ZYGOTE: &str = "zygote";

/// Daemon to zygote: fork an engine host for the channel whose end travels beside this message.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForkHost {
    /// Whether the host makes the namespaces of a container that has its own network, before it
    /// knows its container.
    pub namespaces: bool,
}

/// Zygote to daemon: the pid of the host, or the error of the fork.
pub type HostForked = Result<i32, String>;

/// Daemon to engine host. [`Descriptors`] travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub enum HostRequest {
    /// Set a container up and fork its first process, which waits for Start.
    Create(CreateRequest),
    /// Fork another process into a container, and let it run.
    Exec(ExecRequest),
}

impl HostRequest {
    /// The working directory of the process.
    #[must_use]
    pub fn cwd(&self) -> &Path {
        match self {
            HostRequest::Create(request) => &request.cwd,
            HostRequest::Exec(request) => &request.cwd,
        }
    }

    /// The id of the container.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            HostRequest::Create(request) => &request.id,
            HostRequest::Exec(request) => &request.id,
        }
    }

    /// Whether the process has a terminal.
    #[must_use]
    pub fn terminal(&self) -> bool {
        match self {
            HostRequest::Create(request) => request.terminal,
            HostRequest::Exec(request) => request.terminal,
        }
    }
}

/// The container to create.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The container's id.
    pub id: String,
    /// The bundle: the directory with `config.json`.
    pub bundle: PathBuf,
    /// The mounts of the root filesystem; empty if it is mounted already.
    pub rootfs: Vec<Mount>,
    /// The working directory, created if it is missing.
    pub cwd: PathBuf,
    /// Whether the standard streams are a terminal, which the host opens.
    pub terminal: bool,
    /// Whether systemd manages the cgroup: by the options or by the form of the cgroup's path.
    pub systemd_cgroup: bool,
    /// The directory of the files that the containers of the pod share, if the daemon created the
    /// pod.
    pub pod_files: Option<PathBuf>,
    /// The runtime's options.
    pub options: RuntimeOptions,
    /// The largest module that an engine without a compiler reads in the guest's process, bytes.
    pub module_max: u64,
}

/// The process to add to a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's id.
    pub id: String,
    /// The process's id.
    pub exec_id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// The process, as `process` in a configuration: JSON.
    pub process: String,
    /// The working directory.
    pub cwd: PathBuf,
    /// As in [`CreateRequest`].
    pub terminal: bool,
    /// As in [`CreateRequest`].
    pub options: RuntimeOptions,
    /// As in [`CreateRequest`].
    pub module_max: u64,
}

/// A filesystem to mount, as containerd describes it (`types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The filesystem's type, or `bind`.
    pub fstype: String,
    /// The source.
    pub source: String,
    /// The mount point below the root filesystem; empty for the root itself.
    pub target: String,
    /// Options in the form of fstab(5).
    pub options: Vec<String>,
}

/// The guest's ends of the standard streams.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The descriptors beside a [`HostRequest`].
#[derive(Debug)]
pub struct Descriptors {
    /// The setup channel of the process.
    pub setup: Channel,
    /// The setup lock of the bundle, which every forked process inherits until the guest runs.
    pub setup_lock: OwnedFd,
    /// The log of the container.
    pub log: OwnedFd,
    /// The standard streams; None for a terminal.
    pub stdio: Option<Stdio>,
}

/// A [`HostRequest`] came with the wrong number of descriptors.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request came with {0} descriptors")]
pub struct WrongDescriptors(usize);

impl Descriptors {
    /// The descriptors' numbers, in the order in which [`Descriptors::receive`] expects them.
    #[must_use]
    pub fn as_raw(&self) -> Vec<RawFd> {
        let mut all =
            vec![self.setup.as_raw_fd(), self.setup_lock.as_raw_fd(), self.log.as_raw_fd()];
        if let Some(Stdio { stdin, stdout, stderr }) = &self.stdio {
            all.extend([stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]);
        }
        all
    }

    /// Names the descriptors that came beside a request.
    ///
    /// # Errors
    /// If their number is wrong.
    pub fn receive(fds: Vec<OwnedFd>, terminal: bool) -> Result<Descriptors, WrongDescriptors> {
        let count = fds.len();
        let mut fds = fds.into_iter();
        let (Some(setup), Some(setup_lock), Some(log)) = (fds.next(), fds.next(), fds.next())
        else {
            return Err(WrongDescriptors(count));
        };
        let stdio = match (fds.next(), fds.next(), fds.next()) {
            (None, ..) if terminal => None,
            (Some(stdin), Some(stdout), Some(stderr)) if !terminal && fds.next().is_none() => {
                Some(Stdio { stdin, stdout, stderr })
            }
            _ => return Err(WrongDescriptors(count)),
        };
        Ok(Descriptors { setup: Channel::from_fd(setup), setup_lock, log, stdio })
    }
}

/// Engine host to daemon: the result of a [`HostRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub enum HostReply {
    /// The process exists. Beside it, for a terminal: the daemon's end.
    Forked {
        /// The pid in the daemon's pid namespace.
        pid: i32,
    },
    /// The process was not started, and no process of this attempt remains.
    Failed(Failure),
}

/// To the daemon, from the engine host or the process that it sets up.
#[derive(Debug, Serialize, Deserialize)]
pub enum SetupMessage {
    /// The process needs the compiled code of its module. Beside it: the module.
    Compile {
        /// The engine's compile key.
        key: String,
        /// The key of baseline code, if the engine has a baseline compiler.
        baseline: Option<String>,
        /// The conditions of the start, as `wherry_engine::Start::to_args` writes them.
        start: Vec<String>,
    },
    /// The configuration is valid: the daemon creates the cgroup while the host mounts the root
    /// filesystem. Answered with [`SetupReply::Proceed`] or [`SetupReply::Refused`].
    Cgroup,
    /// The namespaces exist: prestart and createRuntime hooks are due. Answered with
    /// [`SetupReply::Proceed`] or [`SetupReply::Refused`].
    Hooks {
        /// The first process, in the daemon's pid namespace.
        pid: i32,
    },
    /// The process cannot run.
    Failed(Failure),
    /// An error that libcontainer logged. If the setup fails, it says more than the error that
    /// libcontainer returns in the end.
    Detail(String),
}

/// From the daemon: the answer to [`SetupMessage::Compile`], `Hooks` or `Cgroup`.
#[derive(Debug, Serialize, Deserialize)]
pub enum SetupReply {
    /// The hooks have run, or the cgroup exists.
    Proceed,
    /// Beside it: the compiled code.
    Compiled,
    /// The request failed, with the sentence for the user.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_are_received_in_the_order_in_which_they_are_sent() {
        let (setup, _other) = Channel::pair().unwrap();
        let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
        let sent = Descriptors { setup, setup_lock: null(), log: null(), stdio: Some(stdio) };
        let numbers = sent.as_raw();
        let Descriptors { setup, setup_lock, log, stdio } = sent;
        let Stdio { stdin, stdout, stderr } = stdio.unwrap();
        let fds = vec![setup.into_fd(), setup_lock, log, stdin, stdout, stderr];
        assert_eq!(Descriptors::receive(fds, false).unwrap().as_raw(), numbers);
    }

    #[test]
    fn any_other_number_of_descriptors_is_refused() {
        let receive = |count: usize, terminal| {
            Descriptors::receive((0..count).map(|_| null()).collect(), terminal)
        };
        for (count, terminal) in
            [(0, true), (2, true), (4, true), (6, true), (3, false), (5, false), (7, false)]
        {
            let refused = receive(count, terminal).unwrap_err();
            assert_eq!(refused.to_string(), format!("a request came with {count} descriptors"));
        }
        assert!(receive(3, true).unwrap().stdio.is_none());
        assert!(receive(6, false).unwrap().stdio.is_some());
    }
}
