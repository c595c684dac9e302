//! A process that is added to a container.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use wherry_supervisor::exec::ExecConfig;
use wherry_sys::process::Exit;

use crate::actor::{self, Request, ask};
use crate::create::Runtime;
use crate::handle::{Error, Snapshot};
use crate::operations;

/// A process that is added to a container. It exists from Start on.
#[derive(Clone)]
pub struct Exec {
    pub(crate) operations: Arc<operations::Exec>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
}

impl Exec {
    pub(crate) fn add(runtime: &Runtime, operations: operations::Exec) -> Exec {
        if operations.container.options.systemd_cgroup {
            // At Start systemd moves the process into the container's cgroup.
            wherry_cgroup::start_grace_period();
        }
        let operations = Arc::new(operations);
        let spec = actor::Spec {
            id: operations.container.id.clone(),
            exec_id: operations.config.exec_id.clone(),
            operations: operations.clone(),
            process: None,
            oom: None,
        };
        let reaper = runtime.supervisor.reaper.clone();
        let (requests, snapshot) = actor::spawn(spec, Arc::clone(&runtime.events), reaper);
        Exec { operations, requests, snapshot }
    }

    /// The process that was requested.
    #[must_use]
    pub fn config(&self) -> &ExecConfig {
        &self.operations.config
    }

    /// Its streams.
    #[must_use]
    pub fn stdio(&self) -> &crate::StdioPaths {
        &self.operations.stdio
    }

    /// Its state at this moment. It has no pid before Start.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits for its exit.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is deleted before it was started.
    pub async fn wait(&self) -> Result<Exit, Error> {
        actor::wait(&self.snapshot).await
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was started before; [`Error::Failure`] if it cannot be executed.
    pub async fn start(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Start).await
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::Signal`] if it has exited, [`Error::NotStarted`] if it does not exist yet.
    pub async fn kill(&self, signal: u32) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Kill { signal, all: false, reply }).await
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

    /// Deletes it.
    ///
    /// # Errors
    /// [`Error::Refused`] while it runs.
    pub async fn delete(&self) -> Result<Exit, Error> {
        ask(&self.requests, Request::Delete).await
    }
}
