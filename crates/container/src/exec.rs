//! Another process in a container.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use wherry_sandbox::process::{Exit, Process};
use wherry_sandbox::protocol::{ExecRequest, Failure, FailureKind, HostRequest};
use wherry_sandbox::stdio::{StdioPaths, Streams};
use wherry_sandbox::{Bundle, cgroup};

use crate::actor::{self, Request, Role, SIGKILL, ask};
use crate::code::{self, Order};
use crate::create::{self, Config, Runtime};
use crate::handle::{Error, Snapshot};

/// What a client wants of another process.
#[derive(Debug, Clone)]
pub struct ExecConfig {
    /// Its id.
    pub exec_id: String,
    /// The process, as in a container's configuration: JSON.
    pub process: String,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Its streams.
    pub stdio: StdioPaths,
}

/// Another process in a container. It exists from Start on.
#[derive(Clone)]
pub struct Exec {
    config: Arc<ExecConfig>,
    requests: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Snapshot>,
}

/// All that Start takes to make a process.
pub(crate) struct Plan {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) container: Arc<Config>,
    /// The container's first process.
    pub(crate) init: Arc<Process>,
    pub(crate) config: Arc<ExecConfig>,
}

impl Exec {
    pub(crate) fn add(plan: Plan) -> Exec {
        // It joins the container's, at Start.
        cgroup::wait_early(&plan.container.bundle);
        let config = Arc::clone(&plan.config);
        let runtime = Arc::clone(&plan.runtime);
        let (requests, snapshot) = actor::spawn(&runtime, Role::Exec(plan));
        Exec { config, requests, snapshot }
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &ExecConfig {
        &self.config
    }

    /// Its state at this moment. Until Start it has no pid.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is deleted before it was started.
    pub async fn wait(&self) -> Result<Exit, Error> {
        actor::wait(&self.snapshot).await
    }

    /// Lets it run.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was started before; [`Error::Failure`] when it cannot be executed.
    pub async fn start(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Start).await
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::Signal`] when it has ended, [`Error::NotStarted`] when it does not exist yet.
    pub async fn kill(&self, signal: u32) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Kill { signal, all: false, reply }).await
    }

    /// Tells that there will be no more input.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub async fn close_stdin(&self) -> Result<(), Error> {
        ask(&self.requests, Request::CloseStdin).await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`Error::Terminal`] when it has none, or there is no such size.
    pub async fn resize(&self, columns: u32, rows: u32) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Resize { columns, rows, reply }).await
    }

    /// Forgets it.
    ///
    /// # Errors
    /// [`Error::Refused`] while it runs.
    pub async fn delete(&self) -> Result<Exit, Error> {
        ask(&self.requests, Request::Delete).await
    }
}

/// Has the process forked, and lets it run. Blocks. Must be called within the runtime.
pub(crate) fn start(plan: &Plan) -> Result<(Process, Streams), Failure> {
    let Plan { runtime, container, init, config } = plan;
    let request = HostRequest::Exec(ExecRequest {
        id: container.id.clone(),
        exec_id: config.exec_id.clone(),
        bundle: container.bundle.clone(),
        process: config.process.clone(),
        cwd: config.cwd.clone(),
        terminal: config.terminal,
        io_uid: container.io_uid,
        io_gid: container.io_gid,
        plugins: container.plugins.clone(),
        no_engine_seccomp: container.no_engine_seccomp,
        module_max: runtime.bounds.module,
    });
    let mut no_hooks = |_| Ok(());
    let bundle = Bundle::new(&container.bundle, &container.id);
    let mut is_there = || Ok(());
    let streams = (&config.stdio, config.terminal);
    // Asked for by a module alone: a native program takes no code.
    let mut compile = |module: &File, key: &str, quick: Option<&str>, start: &[String]| {
        let spec = bundle.config().map_err(|error| error.to_string())?;
        let cgroup = bundle.cgroup(&spec, container.systemd_cgroup)?;
        let (id, memory) = (&container.id, code::memory_limit(&spec));
        let cancel = &container.cancel;
        Order { runtime, id, rootfs: &[], cgroup: &cgroup, memory, cancel }
            .code(module, key, quick, start)
    };
    let forked = create::fork(
        runtime,
        &bundle,
        &request,
        streams,
        &mut compile,
        &mut no_hooks,
        &mut is_there,
    );
    let ended = || {
        let text = format!("container {} ended before the process could start", container.id);
        Failure::new(FailureKind::System, text)
    };
    match forked {
        // The host finds the container's namespaces by the pid of its first process, which may be another process's once that
        // one has ended and been reaped.
        Ok((forked, _)) if init.has_ended() => {
            let _ = forked.process.signal(SIGKILL);
            Err(ended())
        }
        Ok((forked, streams)) => Ok((forked.process, streams)),
        // The end of the container may have cut short any step.
        Err(failure) if failure.kind == FailureKind::System && init.has_ended() => Err(ended()),
        Err(failure) => Err(failure),
    }
}
