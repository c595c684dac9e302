//! OCI hooks: programs that a configuration wants to be run at moments of a container's life (the
//! runtime specification's config.md, "POSIX-platform Hooks", and runtime.md, "Lifecycle").
//!
//! The daemon runs the hooks of the runtime's namespaces: prestart and createRuntime when the host
//! reports that the container's namespaces exist, poststart at the end of Start, and poststop when
//! everything else is removed. createContainer and startContainer run in the container's
//! namespaces, from the engine host.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{ContainerState, Hook, Hooks, State};
use serde::{Deserialize, Serialize};
use wherry_sys::process::{Process, status_of};
use wherry_sys::reaper::Reaper;

use crate::{Bundle, Config};

/// How much of a failing hook's output the error quotes, bytes, from its end.
const QUOTED: u64 = 2048;

/// The moments at which hooks run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The namespaces exist and the root filesystem is mounted, but not yet entered.
    Prestart,
    /// As [`Moment::Prestart`], after it.
    CreateRuntime,
    /// As [`Moment::CreateRuntime`], after it, in the container's namespaces.
    CreateContainer,
    /// At Start, in the container, just before the guest runs.
    StartContainer,
    /// The guest runs, and Start has not been answered yet.
    Poststart,
    /// The container is removed, and Delete has not been answered yet.
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    fn status(self) -> ContainerState {
        match self {
            Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => {
                ContainerState::Creating
            }
            Moment::StartContainer => ContainerState::Created,
            Moment::Poststart => ContainerState::Running,
            Moment::Poststop => ContainerState::Stopped,
        }
    }

    fn of(self, hooks: &Hooks) -> Option<&Vec<Hook>> {
        match self {
            Moment::Prestart => hooks.prestart().as_ref(),
            Moment::CreateRuntime => hooks.create_runtime().as_ref(),
            Moment::CreateContainer => hooks.create_container().as_ref(),
            Moment::StartContainer => hooks.start_container().as_ref(),
            Moment::Poststart => hooks.poststart().as_ref(),
            Moment::Poststop => hooks.poststop().as_ref(),
        }
    }
}

/// The hooks of one moment, with everything that they need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    moment: Moment,
    hooks: Vec<Hook>,
    state: State,
    /// The working directory; None for that of the process that runs the hooks.
    directory: Option<PathBuf>,
    /// The environment of a hook without one; None for that of the process that runs the hooks.
    environment: Option<Vec<String>>,
}

/// A hook failed.
#[derive(Debug, thiserror::Error)]
#[error("the {moment} hook {path} {cause}")]
pub struct HookError {
    moment: &'static str,
    path: String,
    cause: HookCause,
}

/// Why a hook failed, as the predicate of a sentence.
#[derive(Debug, thiserror::Error)]
enum HookCause {
    #[error("is not an absolute path")]
    Relative,
    #[error("has a timeout of {0}: it must be greater than 0")]
    Timeout(i64),
    #[error("cannot be run: {0}")]
    Spawn(#[from] io::Error),
    #[error("ended with status {status}{output}")]
    Status { status: u32, output: String },
    #[error("ran longer than its timeout of {seconds} s{output}")]
    Late { seconds: u64, output: String },
}

impl Batch {
    /// The hooks of `moment`. As in runc, those of the runtime's namespaces run in the bundle,
    /// createContainer's in the root filesystem, and those of the container's namespaces with the
    /// environment of the container's process.
    #[must_use]
    pub fn new(moment: Moment, bundle: &Bundle, config: &Config) -> Batch {
        let mut state = State::default();
        state
            .set_version(config.oci_version.clone())
            .set_id(bundle.id().to_owned())
            .set_status(moment.status())
            .set_bundle(bundle.path().to_owned())
            .set_annotations(config.annotations.clone());
        let environment = || {
            let process = config.process.as_ref();
            Some(process.and_then(|process| process.env.clone()).unwrap_or_default())
        };
        let (directory, environment) = match moment {
            Moment::CreateContainer => (Some(bundle.root(config)), environment()),
            Moment::StartContainer => (None, environment()),
            _ => (Some(bundle.path().to_owned()), None),
        };
        let hooks = config.hooks.as_ref().and_then(|hooks| moment.of(hooks));
        let hooks = hooks.cloned().unwrap_or_default();
        Batch { moment, hooks, state, directory, environment }
    }

    /// Whether no hooks are configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Runs the hooks one after the other. Blocks. `pid` is the container's first process, in the
    /// pid namespace of this process. `reaper` reaps this process's children, if another thread
    /// does so.
    ///
    /// # Errors
    /// If a hook fails; the remaining hooks do not run. After the guest has started a failure has no
    /// effect: it is logged, and the remaining hooks run.
    pub fn run(&self, pid: Option<i32>, reaper: Option<&Reaper>) -> Result<(), HookError> {
        let mut state = self.state.clone();
        state.set_pid(pid);
        for hook in &self.hooks {
            let Err(cause) = self.run_one(hook, &state, reaper) else { continue };
            let path = hook.path().display().to_string();
            let error = HookError { moment: self.moment.name(), path, cause };
            match self.moment {
                Moment::Poststart | Moment::Poststop => log::warn!("{}: {error}", self.state.id()),
                _ => return Err(error),
            }
        }
        Ok(())
    }

    fn run_one(
        &self,
        hook: &Hook,
        state: &State,
        reaper: Option<&Reaper>,
    ) -> Result<(), HookCause> {
        if !hook.path().is_absolute() {
            return Err(HookCause::Relative);
        }
        let limit = match hook.timeout() {
            None => None,
            Some(seconds @ 1..) => Some(seconds.unsigned_abs()),
            Some(other) => return Err(HookCause::Timeout(other)),
        };
        // Files in memory instead of pipes: no thread has to write or read while the hook runs, and
        // a background process that it leaves behind does not block.
        let input = memory_file(&serde_json::to_vec(state).map_err(io::Error::from)?)?;
        let output = memory_file(&[])?;
        let mut command = Command::new(hook.path());
        command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
            command.arg0(name).args(args);
        }
        if let Some(environment) = hook.env().as_ref().or(self.environment.as_ref()) {
            let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
            command.env_clear().envs(pairs);
        }
        match wait(command.spawn()?, reaper, limit.map(Duration::from_secs))? {
            Some(0) => Ok(()),
            Some(status) => Err(HookCause::Status { status, output: quote(output) }),
            None => {
                let seconds = limit.unwrap_or_default();
                Err(HookCause::Late { seconds, output: quote(output) })
            }
        }
    }
}

/// Waits for the exit of a child, at most for `limit`; then kills it. Returns its exit status, or
/// 128 plus the signal that killed it; None after the limit.
fn wait(
    mut child: Child,
    reaper: Option<&Reaper>,
    limit: Option<Duration>,
) -> io::Result<Option<u32>> {
    let Some(reaper) = reaper else {
        let Some(limit) = limit else { return Ok(Some(status_of(child.wait()?))) };
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status_of(status)));
            }
            // The container's seccomp profile may forbid everything that would wake us in time.
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill()?;
        child.wait()?;
        return Ok(None);
    };
    let gone = || io::Error::other("the shim is shutting down");
    let process = Process::new(i32::try_from(child.id()).map_err(|_| gone())?);
    let exit = reaper.exit_of(process.pid());
    let Some(limit) = limit else {
        return Ok(Some(exit.recv().map_err(|_| gone())?.status));
    };
    match exit.recv_timeout(limit) {
        Ok(exit) => Ok(Some(exit.status)),
        Err(RecvTimeoutError::Timeout) => {
            // Gone: it has ended at this moment.
            let _ = process.signal(libc::SIGKILL.unsigned_abs());
            exit.recv().map_err(|_| gone())?;
            Ok(None)
        }
        Err(RecvTimeoutError::Disconnected) => Err(gone()),
    }
}

fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"wherry-hook", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The end of a hook's output, as the end of a sentence.
fn quote(mut output: File) -> String {
    let mut bytes = Vec::new();
    let start = output.metadata().map_or(0, |meta| meta.len().saturating_sub(QUOTED));
    if output.seek(SeekFrom::Start(start)).is_ok() {
        // What could be read is quoted.
        let _ = output.take(QUOTED).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => String::new(),
        text => format!(": {}", text.replace('\n', " ")),
    }
}
