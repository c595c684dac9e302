//! The handle of a container.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::LinuxResources;
use tokio::sync::{mpsc, watch};
use wherry_cgroup::usage::Usage;
use wherry_cgroup::{Cgroup, CgroupError, Meter};
use wherry_protocol::Failure;
use wherry_supervisor::Cancel;
use wherry_supervisor::exec::ExecConfig;
use wherry_sys::process::{Exit, Process, SignalError};

use crate::actor::{self, KILLED, Request, SIGKILL, ask};
use crate::create::{self, Config, Runtime};
use crate::event::{Event, EventKind};
use crate::exec::Exec;
use crate::oom::OomEvents;
use crate::operations::{self, Operations};
use crate::pod::PodRefused;
use crate::state::{Refused, State};
use crate::stdio::StdioPaths;
use crate::thread::{self, NoThread};

/// A container. Queries answer at once, also while the guest is busy.
#[derive(Clone)]
pub struct Container {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) config: Arc<Config>,
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) meter: Option<Meter>,
    pub(crate) process: Arc<Process>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) execs: Arc<Mutex<HashMap<String, Exec>>>,
    /// Cancels the starts of added processes: the daemon may outlive the container.
    pub(crate) cancel_execs: Cancel,
}

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its state.
    pub state: State,
    /// Its pid in the daemon's pid namespace, also after its exit; 0 before it exists.
    pub pid: i32,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine, the image or the configuration is at fault.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The transition is not valid in this state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The pod is in another state.
    #[error(transparent)]
    Pod(#[from] PodRefused),
    /// The signal could not be sent.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The terminal cannot be resized.
    #[error("cannot resize the terminal: {0}")]
    Terminal(io::Error),
    /// The process has no terminal.
    #[error("cannot resize the terminal: the process has no terminal")]
    NoTerminal,
    /// The process has not been started.
    #[error("the process has not been started")]
    NotStarted,
    /// A process can only be added to a running container.
    #[error("cannot exec in a {0} container")]
    NotRunning(&'static str),
    /// The id is in use.
    #[error("exec {0:?} already exists")]
    ExecExists(String),
    /// The kernel refuses a limit, or to freeze the cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refuses to start a thread. The request had no effect and may be repeated.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// A bug of the daemon. The log has the panic's message.
    #[error("the shim panicked: its log has the message")]
    Panicked,
    /// A start is running: a process that is being started cannot be handed over.
    #[error("it is being started")]
    Starting,
    /// It was deleted.
    #[error("it was deleted")]
    Gone,
}

impl Container {
    /// Creates a container: when this returns, its first process exists, in its namespaces, with
    /// its program loaded.
    ///
    /// # Errors
    /// [`Error::Failure`]; then everything of the container was removed.
    pub async fn create(runtime: Arc<Runtime>, config: Config) -> Result<Container, Error> {
        let config = Arc::new(config);
        let (init, new) = {
            let (supervisor, config) = (Arc::clone(&runtime.supervisor), Arc::clone(&config));
            actor::blocking(move || create::create(&supervisor, &config)).await?
        };
        let (meter, process) = (init.meter.clone(), Arc::clone(&new.process));
        let operations: Arc<dyn Operations> = Arc::new(init);
        let id = &config.container.id;
        runtime.events.send(Event {
            id: id.clone(),
            exec_id: String::new(),
            kind: EventKind::Created {
                bundle: config.container.bundle.display().to_string(),
                rootfs: config.container.rootfs.clone(),
                stdio: config.stdio.clone(),
                terminal: config.container.terminal,
                pid: process.pid(),
            },
        });
        let oom = meter.as_ref().and_then(|meter| {
            // Without notifications a kill is published at the exit.
            OomEvents::new(meter).map_err(|error| log::info!("{id}: {error}")).ok()
        });
        let recorded = Arc::clone(&operations);
        drop(thread::run_or_block(move || recorded.record_usage()));
        let spec = actor::Spec {
            id: id.clone(),
            exec_id: String::new(),
            operations: Arc::clone(&operations),
            process: Some(new),
            oom,
        };
        runtime.refill();
        let reaper = runtime.supervisor.reaper.clone();
        let (requests, snapshot) = actor::spawn(spec, Arc::clone(&runtime.events), reaper);
        let execs = Arc::default();
        let cancel_execs = Cancel::default();
        Ok(Container {
            runtime,
            config,
            operations,
            meter,
            process,
            requests,
            snapshot,
            execs,
            cancel_execs,
        })
    }

    /// The container that was requested.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The pid of its first process in the daemon's pid namespace, also after the exit.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.snapshot().pid
    }

    /// Its state at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits for the exit of its first process.
    ///
    /// # Errors
    /// [`Error::Gone`] if the daemon ends first.
    pub async fn wait(&self) -> Result<Exit, Error> {
        actor::wait(&self.snapshot).await
    }

    /// Starts the guest.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it is created; [`Error::Failure`] if its program cannot be
    /// executed.
    pub async fn start(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Start).await
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// [`Error::Signal`] with [`SignalError::Gone`] if it has exited.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Kill { signal, all, reply }).await
    }

    /// Closes its standard input.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub async fn close_stdin(&self) -> Result<(), Error> {
        ask(&self.requests, Request::CloseStdin).await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`Error::NoTerminal`], or [`Error::Terminal`] for an invalid size.
    pub async fn resize(&self, columns: u32, rows: u32) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Resize { columns, rows, reply }).await
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it runs; [`Error::Cgroup`].
    pub async fn pause(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Pause).await
    }

    /// Thaws all its processes.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it is paused; [`Error::Cgroup`].
    pub async fn resume(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Resume).await
    }

    /// Changes its limits.
    ///
    /// # Errors
    /// [`Error::Cgroup`] with the value that the kernel refused; [`Error::Signal`] after its exit.
    pub async fn update(&self, resources: LinuxResources) -> Result<(), Error> {
        let cgroup = self.living_cgroup()?;
        actor::blocking(move || cgroup.update(&resources)).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Error::Refused`] while the guest runs.
    pub async fn delete(&self) -> Result<Exit, Error> {
        let result = match ask(&self.requests, Request::Delete).await {
            Err(Error::Gone) if !matches!(self.snapshot().state, State::Deleted(_)) => {
                self.delete_without_actor().await
            }
            result => result,
        };
        if result.is_ok() {
            // Nothing commits them, so this always succeeds.
            let _ = self.cancel_execs.cancel();
        }
        result
    }

    /// Removes it after a panic of the actor. Everything that this needs is in the bundle.
    async fn delete_without_actor(&self) -> Result<Exit, Error> {
        let id = &self.config.container.id;
        log::error!("{id}: it is removed after a panic");
        // It may have exited.
        let _ = self.process.signal(SIGKILL);
        let operations = Arc::clone(&self.operations);
        actor::blocking(move || {
            drop(operations.remove());
            Ok::<_, Error>(())
        })
        .await?;
        let (pid, known) = (self.pid(), self.snapshot().state.exit());
        let exit = known.unwrap_or_else(|| Exit::now(KILLED));
        let publish = |kind| {
            self.runtime.events.send(Event { id: id.clone(), exec_id: String::new(), kind });
        };
        if known.is_none() {
            publish(EventKind::Exited { pid, exit });
        }
        publish(EventKind::Deleted { pid, exit });
        Ok(exit)
    }

    /// Adds a process, which Start creates.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::ExecExists`].
    pub fn exec(&self, config: ExecConfig, stdio: StdioPaths) -> Result<(), Error> {
        match self.snapshot().state {
            State::Running => {}
            state => return Err(Error::NotRunning(state.name())),
        }
        let exec_id = config.exec_id.clone();
        let mut execs = self.lock();
        if execs.contains_key(&exec_id) {
            return Err(Error::ExecExists(exec_id));
        }
        let operations = operations::Exec {
            supervisor: Arc::clone(&self.runtime.supervisor),
            container: Arc::new(self.config.container.clone()),
            init: Arc::clone(&self.process),
            config,
            stdio,
            cancel: self.cancel_execs.clone(),
        };
        let exec = Exec::add(&self.runtime, operations);
        self.runtime.events.send(Event {
            id: self.config.container.id.clone(),
            exec_id: exec_id.clone(),
            kind: EventKind::ExecAdded,
        });
        execs.insert(exec_id, exec);
        Ok(())
    }

    /// The added process with this id.
    #[must_use]
    pub fn find_exec(&self, exec_id: &str) -> Option<Exec> {
        self.lock().get(exec_id).cloned()
    }

    /// Removes the added process with this id, which was deleted.
    pub fn forget_exec(&self, exec_id: &str) {
        self.lock().remove(exec_id);
    }

    /// The ids of the added processes that exist, by their pids.
    #[must_use]
    pub fn exec_pids(&self) -> HashMap<i32, String> {
        let running = |exec: &Exec| (exec.snapshot().pid, exec.config().exec_id.clone());
        self.lock().values().map(running).filter(|(pid, _)| *pid != 0).collect()
    }

    /// The pids of its processes in the daemon's pid namespace; empty after its exit.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        if self.snapshot().state.exit().is_some() {
            return Vec::new();
        }
        let mut pids = self.meter.as_ref().map(|meter| meter.cgroup().pids()).unwrap_or_default();
        if !pids.contains(&self.pid()) {
            pids.insert(0, self.pid());
        }
        pids
    }

    /// Its statistics, also after its exit. None if they could never be read.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.meter.as_ref().map(Meter::read)
    }

    fn living_cgroup(&self) -> Result<Cgroup, Error> {
        match (self.snapshot().state.exit(), &self.meter) {
            (None, Some(meter)) => Ok(meter.cgroup().clone()),
            _ => Err(SignalError::Gone.into()),
        }
    }

    /// No code panics while it holds this lock, so it is never poisoned with a half-made map.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
