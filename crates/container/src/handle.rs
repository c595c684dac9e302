//! The handle to a container.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use wherry_sandbox::cgroup::usage::Usage;
use wherry_sandbox::process::{Exit, SignalError};
use wherry_sandbox::{Cgroup, Failure};

use crate::actor::{self, Request};
use crate::create::{self, Config, Runtime};
use crate::event::Event;
use crate::state::{Refused, State};

/// A container. Queries answer at once, whatever the guest does.
#[derive(Clone)]
pub struct Container {
    config: Arc<Config>,
    pid: i32,
    cgroup: Option<Cgroup>,
    requests: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Snapshot>,
}

/// A container at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its state.
    pub state: State,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine, the image or the configuration is at fault.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// It cannot be done in this state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The signal could not be sent.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The container is gone.
    #[error("the container has been deleted")]
    Gone,
}

impl Container {
    /// Creates a container: when this returns, its first process exists, in its namespaces, with
    /// its program loaded.
    ///
    /// # Errors
    /// [`Error::Failure`]; nothing is left of the container then.
    pub async fn create(runtime: Arc<Runtime>, config: Config) -> Result<Container, Error> {
        let config = Arc::new(config);
        let newborn = {
            let (runtime, config) = (Arc::clone(&runtime), Arc::clone(&config));
            actor::blocking(move || create::create(&runtime, &config)).await?
        };
        let pid = newborn.created.pid;
        let cgroup = newborn.cgroup.clone();
        runtime.events.send(Event::Created {
            id: config.id.clone(),
            bundle: config.bundle.display().to_string(),
            rootfs: config.rootfs.clone(),
            stdio: config.stdio.clone(),
            terminal: false,
            pid,
        });
        let (requests, snapshot) = actor::spawn(&runtime, Arc::clone(&config), newborn);
        Ok(Container { config, pid, cgroup, requests, snapshot })
    }

    /// What it was created from.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its first process, in the daemon's pid namespace. Known for ever, also after the end.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its state at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits for the guest's end.
    ///
    /// # Errors
    /// [`Error::Gone`] if the daemon ends first.
    pub async fn wait(&self) -> Result<Exit, Error> {
        let mut snapshot = self.snapshot.clone();
        let ended = snapshot.wait_for(|now| now.state.exit().is_some()).await;
        ended.ok().and_then(|now| now.state.exit()).ok_or(Error::Gone)
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it is created; [`Error::Failure`] when its program cannot be
    /// executed.
    pub async fn start(&self) -> Result<(), Error> {
        self.ask(Request::Start).await
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// [`Error::Signal`] with [`SignalError::Gone`] when it has ended.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Error> {
        self.ask(|reply| Request::Kill { signal, all, reply }).await
    }

    /// Tells that there will be no more input.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.ask(Request::CloseStdin).await
    }

    /// Removes all that is left of it.
    ///
    /// # Errors
    /// [`Error::Refused`] while the guest lives.
    pub async fn delete(&self) -> Result<Exit, Error> {
        self.ask(Request::Delete).await
    }

    /// The processes in it, by their pids in the daemon's pid namespace; none after its end.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        if self.snapshot().state.exit().is_some() {
            return Vec::new();
        }
        let mut pids = self.cgroup.as_ref().map(Cgroup::pids).unwrap_or_default();
        if !pids.contains(&self.pid) {
            pids.insert(0, self.pid);
        }
        pids
    }

    /// What it has used so far, also after its end. None when that cannot be known.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.cgroup.as_ref().map(Cgroup::usage)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }
}
