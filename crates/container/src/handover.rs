//! Handing a container over to the next version of this executable.
//!
//! A container is suspended first: its actor and those of its execs stop. Then all containers of
//! the daemon are saved in one step. Dropping a suspended container resumes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use wherry_supervisor::Cancel;
use wherry_supervisor::create::ContainerConfig;
use wherry_supervisor::exec::ExecConfig;
use wherry_sys::handover::{Incoming, Outgoing, ResumeError};
use wherry_sys::process::{Process, SavedProcess};

use crate::actor::{self, ActorContext, SavedActor, Suspended};
use crate::create::{Config, Runtime};
use crate::exec::Exec;
use crate::handle::{Container, Error};
use crate::operations::{self, Init, Operations, SavedInit};
use crate::state::State;
use crate::stdio::StdioPaths;

/// A container that is suspended. Dropping this resumes it.
pub struct SuspendedContainer {
    container: Container,
    actor: Suspended,
    execs: Vec<(Exec, Suspended)>,
}

/// A container in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedContainer {
    config: ContainerConfig,
    stdio: StdioPaths,
    process: SavedProcess,
    init: SavedInit,
    actor: SavedActor,
    execs: Vec<SavedExec>,
}

/// An added process in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
struct SavedExec {
    config: ExecConfig,
    stdio: StdioPaths,
    actor: SavedActor,
}

impl SavedContainer {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.config.id
    }
}

impl SuspendedContainer {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.container.config.container.id
    }

    /// The container, for the next version of this executable.
    ///
    /// # Errors
    /// [`Error::Starting`]; [`Error::Gone`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedContainer, Error> {
        let Container { config, operations, process, .. } = &self.container;
        let exec = |(exec, actor): &(Exec, Suspended), out: &mut Outgoing| {
            let (config, stdio) = (exec.config().clone(), exec.stdio().clone());
            Ok::<_, Error>(SavedExec { config, stdio, actor: actor.save(out)? })
        };
        Ok(SavedContainer {
            config: config.container.clone(),
            stdio: config.stdio.clone(),
            process: process.save(out),
            init: operations.save(out).ok_or(Error::Gone)?,
            actor: self.actor.save(out)?,
            execs: self.execs.iter().map(|one| exec(one, out)).collect::<Result<_, _>>()?,
        })
    }
}

impl Container {
    /// Suspends it. Returns None if it was deleted.
    ///
    /// # Errors
    /// [`Error::Starting`]; [`Error::Panicked`] if its actor has panicked.
    pub async fn suspend(&self) -> Result<Option<SuspendedContainer>, Error> {
        let actor = match Suspended::of(&self.requests).await {
            Ok(actor) => actor,
            Err(Error::Gone) if matches!(self.snapshot().state, State::Deleted(_)) => {
                return Ok(None);
            }
            Err(Error::Gone) => return Err(Error::Panicked),
            Err(error) => return Err(error),
        };
        let all: Vec<Exec> = self.lock().values().cloned().collect();
        let mut execs = Vec::new();
        for exec in all {
            match Suspended::of(&exec.requests).await {
                Ok(actor) => execs.push((exec, actor)),
                // It was deleted, or its actor has panicked.
                Err(Error::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(SuspendedContainer { container: self.clone(), actor, execs }))
    }

    /// The container of [`SuspendedContainer::save`]. Must be called within the runtime.
    ///
    /// # Errors
    /// If a descriptor did not come along.
    pub fn restore(
        runtime: &Arc<Runtime>,
        saved: SavedContainer,
        from: &mut Incoming,
    ) -> Result<Container, ResumeError> {
        let SavedContainer { config, stdio, process, init, actor, execs } = saved;
        let cancel = Cancel::default();
        // It was created. Fails only if it was cancelled.
        let _ = cancel.commit();
        let config = Arc::new(Config { container: config, stdio, cancel });
        let container = Arc::new(config.container.clone());
        let process = Arc::new(Process::restore(&process, from)?);
        let supervisor = &runtime.supervisor;
        let init = Init::restore(Arc::clone(supervisor), Arc::clone(&container), init, from)?;
        let meter = init.meter.clone();
        let operations: Arc<dyn Operations> = Arc::new(init);
        let spawn = |exec_id: &str, operations, saved, from: &mut Incoming| {
            let context = ActorContext {
                id: config.container.id.clone(),
                exec_id: exec_id.to_owned(),
                operations,
                init: Arc::clone(&process),
                meter: meter.clone(),
            };
            let (events, reaper) = (Arc::clone(&runtime.events), supervisor.reaper.clone());
            actor::restore(saved, context, events, reaper, from)
        };
        let (requests, snapshot) = spawn("", Arc::clone(&operations), actor, from)?;
        let cancel_execs = Cancel::default();
        let mut restored = HashMap::new();
        for SavedExec { config, stdio, actor } in execs {
            let exec_id = config.exec_id.clone();
            let operations = Arc::new(operations::Exec {
                supervisor: Arc::clone(supervisor),
                container: Arc::clone(&container),
                init: Arc::clone(&process),
                config,
                stdio,
                cancel: cancel_execs.clone(),
            });
            let (requests, snapshot) = spawn(&exec_id, operations.clone(), actor, from)?;
            restored.insert(exec_id, Exec { operations, requests, snapshot });
        }
        Ok(Container {
            runtime: Arc::clone(runtime),
            config,
            operations,
            meter,
            process,
            requests,
            snapshot,
            execs: Arc::new(Mutex::new(restored)),
            cancel_execs,
        })
    }
}
