//! Creating a container: opens its streams and calls the supervisor.

use std::sync::{Arc, Mutex};

use wherry_protocol::Failure;
use wherry_supervisor::create::{ContainerConfig, CreatedContainer};
use wherry_supervisor::{Cancel, Supervisor};

use crate::operations::{Init, NewProcess};
use crate::stdio::{self, StdioPaths, Streams};
use crate::{EventSink, thread};

/// The container that a client requests.
#[derive(Debug, Clone)]
pub struct Config {
    /// The container.
    pub container: ContainerConfig,
    /// Its standard streams.
    pub stdio: StdioPaths,
    /// Cancels its Create.
    pub cancel: Cancel,
}

/// The state that all containers of a daemon share.
pub struct Runtime {
    /// Creates and removes containers.
    pub supervisor: Arc<Supervisor>,
    /// Receives the events.
    pub events: Arc<dyn EventSink>,
}

impl Runtime {
    /// Starts spare engine hosts in place of those that were used, on a thread.
    pub fn refill(&self) {
        refill(&self.supervisor);
    }

    /// Starts an engine host for the first container of a pod, while the client prepares that
    /// container.
    pub fn prepare_host(&self) {
        let supervisor = Arc::clone(&self.supervisor);
        // The client does not wait for it.
        drop(thread::run_or_block(move || supervisor.prepare_host()));
    }
}

/// As [`Runtime::refill`].
pub(crate) fn refill(supervisor: &Arc<Supervisor>) {
    if !supervisor.needs_refill() {
        return;
    }
    let refilled = Arc::clone(supervisor);
    drop(thread::run_or_block(move || refilled.refill()));
    if supervisor.spare().watch() {
        tokio::spawn(end_unused(Arc::clone(supervisor)));
    }
}

/// Waits until the spare hosts are unused for long, and ends them.
async fn end_unused(supervisor: Arc<Supervisor>) {
    while let Some(rest) = supervisor.spare().end_unused() {
        tokio::time::sleep(rest).await;
    }
}

/// Creates a container. Removes everything again if that fails. Blocks. Must be called within the
/// runtime.
pub(crate) fn create(
    supervisor: &Arc<Supervisor>,
    config: &Config,
) -> Result<(Init, NewProcess), Failure> {
    let Config { container, stdio, cancel } = config;
    let opened = stdio::open_unless_terminal(stdio, container.terminal)?;
    let (ends, retained) = opened.unzip();
    let created = supervisor.create(container, ends, cancel)?;
    let CreatedContainer { process, start, console, bundle, remains, meter, mount_namespace } =
        created;
    let streams = Streams::start(retained, console, stdio)
        .inspect_err(|_| supervisor.remove(container, &remains))?;
    let init = Init {
        supervisor: Arc::clone(supervisor),
        config: Arc::new(container.clone()),
        bundle,
        remains,
        start,
        meter,
        mount_namespace: Mutex::new(mount_namespace),
    };
    Ok((init, NewProcess { process: Arc::new(process), streams }))
}
