//! OCI hooks: programs that a configuration has run at certain moments of a container's life (the
//! runtime specification's config.md, "POSIX-platform Hooks", and runtime.md, "Lifecycle").
//!
//! Those of the runtime's namespaces are run by the daemon: prestart and createRuntime when the
//! host says that the container's namespaces are there, poststart at the end of Start, and
//! poststop when all else is gone. createContainer and startContainer belong to the container's
//! namespaces, and are run there: see [`crate::host`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{ContainerState, Hook, Hooks, State};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::config::Config;
use crate::process::{self, Reaper};
use crate::protocol::{Failure, FailureKind};

/// How much of what a failing hook printed is told, bytes: the end of it.
const TOLD: u64 = 2048;

/// The moments, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The namespaces are there and the root filesystem is mounted, but not yet entered.
    Prestart,
    /// As [`Moment::Prestart`], after it.
    CreateRuntime,
    /// As [`Moment::CreateRuntime`], after it, in the container's namespaces.
    CreateContainer,
    /// Start was asked for; in the container, just before the guest runs.
    StartContainer,
    /// The guest runs, and Start has not been answered yet.
    Poststart,
    /// Nothing is left of the container, and Delete has not been answered yet.
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

/// The hooks of one moment, with all that they are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    moment: Moment,
    hooks: Vec<Hook>,
    state: State,
    /// Where they run; where the process that runs them is, if there is none.
    directory: Option<PathBuf>,
    /// The environment of a hook that brings none; that of the process that runs it, if there is
    /// none.
    environment: Option<Vec<String>>,
}

impl Batch {
    /// The hooks of `moment`. As runc has it, those of the runtime's namespaces run in the bundle,
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

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Runs the hooks, one after the other. `pid`: the container's first process, as whoever runs
    /// them sees it, if there is one. `reaper`: who collects this process's children, if it does
    /// not do so itself; then this must be called within the runtime. Blocks.
    ///
    /// # Errors
    /// When one fails; the others are not run then. Once the guest has run a failure changes
    /// nothing: it is logged, and the others are run.
    pub fn run(&self, pid: Option<i32>, reaper: Option<&Reaper>) -> Result<(), Failure> {
        let mut state = self.state.clone();
        state.set_pid(pid);
        for hook in &self.hooks {
            let Err(cause) = self.one(hook, &state, reaper) else { continue };
            let sentence =
                format!("the {} hook {} {cause}", self.moment.name(), hook.path().display());
            match self.moment {
                Moment::Poststart | Moment::Poststop => {
                    log::warn!("{}: {sentence}", self.state.id());
                }
                _ => return Err(Failure::new(FailureKind::System, sentence)),
            }
        }
        Ok(())
    }

    fn one(&self, hook: &Hook, state: &State, reaper: Option<&Reaper>) -> Result<(), String> {
        if !hook.path().is_absolute() {
            return Err("is no absolute path".to_owned());
        }
        let limit = match hook.timeout() {
            None => None,
            Some(seconds @ 1..) => Some(Duration::from_secs(seconds.unsigned_abs())),
            Some(other) => return Err(format!("has a timeout of {other}: it must be more than 0")),
        };
        let failed = |error: io::Error| format!("cannot be run: {error}");
        // Files in memory: nobody has to write or read while the hook runs, and none that a
        // hook leaves behind keeps us waiting.
        let input = memory(&serde_json::to_vec(state).map_err(|error| failed(error.into()))?);
        let output = memory(&[]).map_err(failed)?;
        let mut command = Command::new(hook.path());
        command.stdin(input.map_err(failed)?);
        command.stdout(output.try_clone().map_err(failed)?);
        command.stderr(output.try_clone().map_err(failed)?);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
            command.arg0(name).args(args);
        }
        let own = hook.env().as_ref();
        if let Some(environment) = own.or(self.environment.as_ref()) {
            let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
            command.env_clear().envs(pairs);
        }
        let child = command.spawn().map_err(failed)?;
        match wait(child, reaper, limit).map_err(failed)? {
            Some(0) => Ok(()),
            Some(status) => Err(format!("ended with status {status}{}", told(output))),
            None => Err(format!(
                "ran longer than its timeout of {} s{}",
                hook.timeout().unwrap_or_default(),
                told(output)
            )),
        }
    }
}

/// Waits for the end of a child, and for `limit` at most: then it is killed. Returns its exit
/// status, or 128 plus the signal that ended it; nothing after the limit.
fn wait(
    mut child: Child,
    reaper: Option<&Reaper>,
    limit: Option<Duration>,
) -> io::Result<Option<u32>> {
    let Some(reaper) = reaper else {
        let Some(limit) = limit else { return Ok(Some(process::status_of(child.wait()?))) };
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(process::status_of(status)));
            }
            // A container's seccomp profile may forbid what would wake us in time.
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill()?;
        child.wait()?;
        return Ok(None);
    };
    let gone = |_| io::Error::other("the shim is ending");
    let process = process::Process::new(i32::try_from(child.id()).unwrap_or(-1));
    let mut exit = reaper.wait(process.pid());
    let Some(limit) = limit else { return Ok(Some(exit.blocking_recv().map_err(gone)?.status)) };
    let ended = tokio::runtime::Handle::current()
        .block_on(async { tokio::time::timeout(limit, &mut exit).await });
    match ended {
        Ok(exit) => Ok(Some(exit.map_err(gone)?.status)),
        Err(_) => {
            // If it has just ended there is nothing to kill.
            let _ = process.signal(libc::SIGKILL.unsigned_abs());
            let _ = exit.blocking_recv();
            Ok(None)
        }
    }
}

fn memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"wherry-hook", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The end of what a hook printed, as the end of a sentence.
fn told(mut output: File) -> String {
    let mut bytes = Vec::new();
    let start = output.metadata().map_or(0, |meta| meta.len().saturating_sub(TOLD));
    if output.seek(SeekFrom::Start(start)).is_ok() {
        let _ = output.take(TOLD).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => String::new(),
        text => format!(": {}", text.replace('\n', " ")),
    }
}
