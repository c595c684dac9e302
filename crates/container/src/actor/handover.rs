//! Handing an actor over to the next version of this executable.
//!
//! An actor that is asked to suspend gives itself to the one that asks, so that all actors of a
//! daemon can be saved in one step, with nothing in between. Dropping a suspended actor resumes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use wherry_cgroup::Meter;
use wherry_cgroup::oom::SavedOomWatch;
use wherry_sys::handover::{Incoming, Outgoing, ResumeError};
use wherry_sys::process::{Exit, Process, SavedProcess};
use wherry_sys::reaper::Reaper;

use super::{Actor, Live, LiveExit, Phase, Request};
use crate::event::EventSink;
use crate::handle::{Error, Snapshot};
use crate::oom::OomEvents;
use crate::operations::{NewProcess, Operations};
use crate::state::State;
use crate::stdio::{CLIENT_OPENS, SavedStreams, Streams};
use crate::unread::Unpublished;

/// An actor that has stopped, with the requests that it has not handled. Dropping this resumes it.
pub(crate) struct Suspended(Option<(Actor, mpsc::Receiver<Request>)>);

/// An actor in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedActor {
    state: State,
    pid: i32,
    phase: SavedPhase,
    oom: Option<SavedOomWatch>,
    oom_kills: u64,
    /// Whether the input of pipes is still held open.
    input_held: bool,
}

/// As [`Phase`], without a start that is running.
#[derive(Debug, Serialize, Deserialize)]
enum SavedPhase {
    Created(Option<SavedLive>),
    StartFailed(SavedLive),
    Running(SavedLive),
    Exited,
    Draining(SavedStreams),
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedLive {
    /// None for a container's first process, which the container has saved.
    process: Option<SavedProcess>,
    /// The exit, if it was reaped and is not published yet.
    exit: Option<Exit>,
    streams: SavedStreams,
}

impl Suspended {
    pub(super) fn new(actor: Actor, requests: mpsc::Receiver<Request>) -> Suspended {
        Suspended(Some((actor, requests)))
    }

    /// Suspends an actor.
    ///
    /// # Errors
    /// [`Error::Gone`] if it has ended; [`Error::Starting`].
    pub(crate) async fn of(requests: &mpsc::Sender<Request>) -> Result<Suspended, Error> {
        let (reply, suspended) = oneshot::channel();
        requests.send(Request::Suspend(reply)).await.map_err(|_| Error::Gone)?;
        let dropped = |_| if requests.is_closed() { Error::Gone } else { Error::Starting };
        suspended.await.map_err(dropped)
    }

    /// The actor, for the next version of this executable.
    ///
    /// # Errors
    /// [`Error::Gone`] if it was resumed.
    pub(crate) fn save(&self, out: &mut Outgoing) -> Result<SavedActor, Error> {
        let (actor, _) = self.0.as_ref().ok_or(Error::Gone)?;
        let Snapshot { state, pid } = *actor.snapshot.borrow();
        let is_init = actor.is_init();
        let phase = match &actor.phase {
            Phase::Created(live) => {
                SavedPhase::Created(live.as_ref().map(|live| live.save(is_init, out)))
            }
            Phase::Starting { .. } => return Err(Error::Starting),
            Phase::StartFailed(live) => SavedPhase::StartFailed(live.save(is_init, out)),
            Phase::Running(live) => SavedPhase::Running(live.save(is_init, out)),
            Phase::Exited => SavedPhase::Exited,
            Phase::Draining(streams) => SavedPhase::Draining(streams.save(out)),
        };
        Ok(SavedActor {
            state,
            pid,
            phase,
            oom: actor.oom.as_ref().map(|oom| oom.save(out)),
            oom_kills: actor.oom_kills,
            input_held: actor.input_until.is_some(),
        })
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if let Some((mut actor, requests)) = self.0.take() {
            actor.phase.resume();
            tokio::spawn(actor.run(requests));
        }
    }
}

impl Phase {
    /// Stops the copies of the streams.
    pub(super) async fn suspend(&mut self) {
        if let Some(streams) = self.all_streams() {
            streams.suspend().await;
        }
    }

    fn resume(&mut self) {
        if let Some(streams) = self.all_streams() {
            streams.resume();
        }
    }

    fn all_streams(&mut self) -> Option<&mut Streams> {
        match self {
            Phase::Draining(streams) => Some(streams),
            other => other.streams(),
        }
    }
}

impl Live {
    fn save(&self, is_init: bool, out: &mut Outgoing) -> SavedLive {
        SavedLive {
            process: (!is_init).then(|| self.process.save(out)),
            exit: match &self.exit {
                LiveExit::Pending(_) => None,
                LiveExit::Unread(unpublished) => Some(unpublished.exit()),
            },
            streams: self.streams.save(out),
        }
    }
}

/// The parts of an actor that its container has.
pub(crate) struct ActorContext {
    /// The container's id.
    pub(crate) id: String,
    /// The process's id; empty for a container's first process.
    pub(crate) exec_id: String,
    pub(crate) operations: Arc<dyn Operations>,
    /// The container's first process.
    pub(crate) init: Arc<Process>,
    pub(crate) meter: Option<Meter>,
}

/// Spawns the actor of [`Suspended::save`]. Must be called within the runtime.
pub(crate) fn restore(
    saved: SavedActor,
    context: ActorContext,
    events: Arc<dyn EventSink>,
    reaper: Reaper,
    from: &mut Incoming,
) -> Result<(mpsc::Sender<Request>, watch::Receiver<Snapshot>), ResumeError> {
    let SavedActor { state, pid, phase, oom, oom_kills, input_held } = saved;
    let ActorContext { id, exec_id, operations, init, meter } = context;
    let (snapshot, receiver) = watch::channel(Snapshot { state, pid });
    let (sender, requests) = mpsc::channel(16);
    let oom = match (oom, &meter) {
        (Some(oom), Some(meter)) => Some(OomEvents::restore(&oom, meter, from)?),
        _ => None,
    };
    let mut actor = Actor {
        id,
        exec_id,
        events,
        reaper,
        operations,
        phase: Phase::Exited,
        oom,
        oom_kills,
        input_until: input_held.then(|| Instant::now() + CLIENT_OPENS),
        // No thread works while an actor is saved.
        released: None,
        snapshot,
    };
    let mut live = |saved: SavedLive| {
        let process = match &saved.process {
            Some(process) => Arc::new(Process::restore(process, from)?),
            None => Arc::clone(&init),
        };
        let streams = Streams::restore(saved.streams, from)?;
        Ok::<_, ResumeError>(match saved.exit {
            Some(exit) => Live { process, exit: LiveExit::Unread(Unpublished::new(exit)), streams },
            None => actor.watch(NewProcess { process, streams }),
        })
    };
    let phase = match phase {
        SavedPhase::Created(saved) => Phase::Created(saved.map(live).transpose()?),
        SavedPhase::StartFailed(saved) => Phase::StartFailed(live(saved)?),
        SavedPhase::Running(saved) => Phase::Running(live(saved)?),
        SavedPhase::Exited => Phase::Exited,
        SavedPhase::Draining(streams) => Phase::Draining(Streams::restore(streams, from)?),
    };
    actor.phase = phase;
    tokio::spawn(actor.run(requests));
    Ok((sender, receiver))
}
