//! The actor of a process: the one task that changes its state.
//!
//! A container's first process has one, and each process that is added to it. The actor takes
//! requests one after the other, and waits for the process's exit meanwhile. It never waits for a
//! guest: slow work (a start, the draining of output) runs beside it.
//!
//! ```text
//!  Created ── Start ──▶ Starting ── ok ──▶ Running ── exit ──▶ Exited ── Delete ──▶ (end)
//!     │                    └─ failed ──▶ StartFailed ─ exit ─────▲
//!     └───────────────────── exit, Delete ───────────────────────┘
//! ```
//!
//! While a start is running no exit is published: Exit never overtakes Start.

mod handover;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::measure::{self, Measurement};
use wherry_sys::process::{Exit, Process, SignalError};
use wherry_sys::reaper::Reaper;

use crate::event::{Event, EventKind, EventSink};
use crate::handle::{Error, Snapshot};
use crate::oom::OomEvents;
use crate::operations::{NewProcess, Operations};
use crate::state::{State, Transition};
use crate::stdio::{CLIENT_OPENS, Streams};
use crate::thread::{self, Thread};
use crate::unread::Unpublished;

pub(crate) use handover::{ActorContext, SavedActor, Suspended, restore};

type Reply<T> = oneshot::Sender<Result<T, Error>>;
type StartResult = Result<Option<NewProcess>, Failure>;

/// The requests of a handle.
pub(crate) enum Request {
    Start(Reply<()>),
    Kill {
        signal: u32,
        all: bool,
        reply: Reply<()>,
    },
    CloseStdin(Reply<()>),
    Resize {
        columns: u32,
        rows: u32,
        reply: Reply<()>,
    },
    Pause(Reply<()>),
    Resume(Reply<()>),
    Delete(Reply<Exit>),
    /// Stops the actor for a handover. Not answered while a start is running.
    Suspend(oneshot::Sender<Suspended>),
}

/// The exit status of a process that SIGKILL ended.
pub(crate) const KILLED: u32 = 137;
/// How long Delete waits for the last output to be copied, as runc's shim does: the client of a
/// terminal may not read, or a background process may have the stream open.
const COPY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long Delete waits for a client to open a pipe with unread output. A client of containerd
/// begins to open it before it starts the process, but may only succeed after the exit.
const READER_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const SIGKILL: u32 = 9;

/// An actor's process at the start.
pub(crate) struct Spec {
    /// The container's id.
    pub(crate) id: String,
    /// The process's id; empty for a container's first process.
    pub(crate) exec_id: String,
    pub(crate) operations: Arc<dyn Operations>,
    /// None for a process that Start creates.
    pub(crate) process: Option<NewProcess>,
    /// None if the kernel has no notifications; then a kill is published at the exit.
    pub(crate) oom: Option<OomEvents>,
}

/// Spawns the actor of a process. Must be called within the runtime.
pub(crate) fn spawn(
    spec: Spec,
    events: Arc<dyn EventSink>,
    reaper: Reaper,
) -> (mpsc::Sender<Request>, watch::Receiver<Snapshot>) {
    let (snapshot, receiver) = watch::channel(Snapshot { state: State::Created, pid: 0 });
    let (sender, requests) = mpsc::channel(16);
    let Spec { id, exec_id, operations, process, oom } = spec;
    let mut actor = Actor {
        id,
        exec_id,
        events,
        reaper,
        operations,
        phase: Phase::Exited,
        oom,
        oom_kills: 0,
        input_until: Some(Instant::now() + CLIENT_OPENS),
        released: None,
        snapshot,
    };
    let live = process.map(|process| actor.watch(process));
    actor.phase = Phase::Created(live);
    tokio::spawn(actor.run(requests));
    (sender, receiver)
}

/// Sends an actor a request, and waits for its answer.
pub(crate) async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| Error::Gone)?;
    answer.await.map_err(|_| Error::Gone)?
}

/// Answers a request.
fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    // A client that no longer waits for an answer needs none.
    let _ = reply.send(result);
}

/// Waits for the exit of an actor's process.
pub(crate) async fn wait(snapshot: &watch::Receiver<Snapshot>) -> Result<Exit, Error> {
    let mut snapshot = snapshot.clone();
    let ended = snapshot.wait_for(|now| now.state.exit().is_some()).await;
    ended.ok().and_then(|now| now.state.exit()).ok_or(Error::Gone)
}

/// Runs blocking work on a thread, which is taken before the work begins.
///
/// # Errors
/// [`Error::Thread`] if the kernel refuses a thread; those of `work`; [`Error::Panicked`].
pub(crate) async fn blocking<T, E, F>(work: F) -> Result<T, Error>
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
    Error: From<E>,
{
    Ok(Thread::take()?.run(work).await.map_err(|_| Error::Panicked)??)
}

struct Actor {
    id: String,
    exec_id: String,
    events: Arc<dyn EventSink>,
    reaper: Reaper,
    operations: Arc<dyn Operations>,
    phase: Phase,
    oom: Option<OomEvents>,
    /// The out-of-memory kills until the process was reaped.
    oom_kills: u64,
    /// Until when the input of pipes is held open. None once it was closed.
    input_until: Option<Instant>,
    /// Resolves when a first process that has exited has released the resources of its container.
    released: Option<oneshot::Receiver<()>>,
    snapshot: watch::Sender<Snapshot>,
}

/// The phase of the process.
enum Phase {
    /// Waits for Start. None if Start creates the process.
    Created(Option<Live>),
    /// A start is running on a thread.
    Starting { live: Option<Live>, result: oneshot::Receiver<StartResult>, reply: Reply<()> },
    /// The start failed, and the process is about to exit.
    StartFailed(Live),
    /// The process runs, or is paused.
    Running(Live),
    /// The process has exited.
    Exited,
    /// As [`Phase::Exited`], while output is still on its way to the client.
    Draining(Streams),
}

/// A process that has not been reaped.
struct Live {
    process: Arc<Process>,
    exit: LiveExit,
    streams: Streams,
}

/// The state of a process's exit.
enum LiveExit {
    /// It has not been reaped.
    Pending(oneshot::Receiver<Exit>),
    /// It was reaped, and the client has not read all output yet.
    Unread(Unpublished),
}

/// What happens without a request.
enum Progress {
    Started(StartResult),
    /// The process was reaped.
    Reaped(Exit),
    /// The exit may be published.
    Exited(Exit),
    /// The client has the output.
    Drained,
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let starting = matches!(self.phase, Phase::Starting { .. });
            let input_until = self.input_until.filter(|_| self.phase.streams().is_some());
            tokio::select! {
                // An exit is published before the next request is handled.
                biased;
                progress = self.phase.progress() => match progress {
                    Progress::Started(result) => self.started(result),
                    Progress::Reaped(exit) => self.reaped(exit),
                    Progress::Exited(exit) => self.exited(exit),
                    Progress::Drained => self.phase = Phase::Exited,
                },
                () = next_oom_kill(&mut self.oom), if !starting => {
                    self.publish(EventKind::OutOfMemory);
                }
                () = elapsed(input_until) => {
                    self.input_until = None;
                    // A terminal stays open for the next client.
                    if let Some(Streams::Pipes(retained)) = self.phase.streams() {
                        retained.close_stdin();
                    }
                }
                request = requests.recv() => match request {
                    Some(Request::Suspend(reply)) if !starting => {
                        self.phase.suspend().await;
                        // Without a receiver the actor is resumed at once.
                        let _ = reply.send(Suspended::new(self, requests));
                        return;
                    }
                    Some(request) => {
                        if self.handle(request).await {
                            return;
                        }
                    }
                    // Every handle is dropped: the container was deleted, or the daemon ends.
                    None => return,
                },
            }
        }
    }

    fn state(&self) -> State {
        self.snapshot.borrow().state
    }

    fn pid(&self) -> i32 {
        self.snapshot.borrow().pid
    }

    /// Whether this is a container's first process.
    fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    fn publish(&self, kind: EventKind) {
        self.events.send(Event { id: self.id.clone(), exec_id: self.exec_id.clone(), kind });
    }

    fn transition(&mut self, transition: Transition) -> Result<(), Error> {
        let state = self.state().after(transition)?;
        self.snapshot.send_modify(|now| now.state = state);
        Ok(())
    }

    /// Registers the process with the reaper before its pid is published.
    fn watch(&mut self, NewProcess { process, streams }: NewProcess) -> Live {
        let (sender, exit) = oneshot::channel();
        self.reaper.on_exit(process.pid(), move |exit| {
            // The actor may have ended: the container was deleted before Start.
            let _ = sender.send(exit);
        });
        self.snapshot.send_modify(|now| now.pid = process.pid());
        Live { process, exit: LiveExit::Pending(exit), streams }
    }

    /// Handles a request. Returns true after the last one.
    async fn handle(&mut self, request: Request) -> bool {
        match request {
            Request::Start(reply) => self.start(reply),
            Request::Kill { signal, all, reply } => {
                answer(reply, self.kill(signal, all));
            }
            Request::CloseStdin(reply) => {
                if let Some(streams) = self.phase.streams() {
                    streams.close_stdin();
                }
                answer(reply, Ok(()));
            }
            Request::Resize { columns, rows, reply } => {
                answer(reply, self.resize(columns, rows));
            }
            Request::Pause(reply) => {
                answer(reply, self.freeze(true).await);
            }
            Request::Resume(reply) => {
                answer(reply, self.freeze(false).await);
            }
            Request::Delete(reply) => {
                let (result, overlay) = match self.delete().await {
                    Ok((exit, overlay)) => (Ok(exit), overlay),
                    Err(error) => (Err(error), None),
                };
                let last = result.is_ok();
                answer(reply, result);
                if let Some(overlay) = overlay {
                    drop(thread::run_or_block(move || drop(overlay)));
                }
                return last;
            }
            // The sender learns that a start is running.
            Request::Suspend(reply) => drop(reply),
        }
        false
    }

    fn start(&mut self, reply: Reply<()>) {
        match self.begin_start() {
            Ok((live, result)) => self.phase = Phase::Starting { live, result, reply },
            Err(error) => {
                answer(reply, Err(error));
            }
        }
    }

    fn begin_start(&mut self) -> Result<(Option<Live>, oneshot::Receiver<StartResult>), Error> {
        let running = self.state().after(Transition::Started)?;
        if !matches!(self.phase, Phase::Created(_)) {
            // Another Start is running, or has failed: as if the process were running.
            running.after(Transition::Started)?;
        }
        // Without a thread nothing was started, and Start may be repeated.
        let thread = Thread::take()?;
        let Phase::Created(live) = std::mem::replace(&mut self.phase, Phase::Exited) else {
            return Err(Error::Gone);
        };
        let operations = Arc::clone(&self.operations);
        Ok((live, thread.run(move || operations.start())))
    }

    fn started(&mut self, result: StartResult) {
        let Phase::Starting { live, reply, .. } = std::mem::replace(&mut self.phase, Phase::Exited)
        else {
            return;
        };
        self.input_until = self.input_until.map(|_| Instant::now() + CLIENT_OPENS);
        let result = match result {
            Ok(new) => match new.map(|new| self.watch(new)).or(live) {
                Some(live) => {
                    self.phase = Phase::Running(live);
                    self.transition(Transition::Started)
                        .map(|()| self.publish(EventKind::Started { pid: self.pid() }))
                }
                None => Err(Error::Gone),
            },
            Err(failure) => {
                match live {
                    Some(live) => self.phase = Phase::StartFailed(live),
                    None => {
                        // A process that was never created has the exit status of the failure.
                        let status = failure.kind.exit_status();
                        let exit = Transition::Exited(Exit::now(status.into()));
                        // Valid from Created, the only state before a start.
                        let _ = self.transition(exit);
                    }
                }
                Err(failure.into())
            }
        };
        answer(reply, result);
    }

    /// Counts the out-of-memory kills at once: systemd removes the cgroup as soon as it is empty,
    /// and the client may take long to read the output.
    fn reaped(&mut self, exit: Exit) {
        if self.is_init() {
            self.oom_kills = self.operations.oom_kills();
        }
        if let Some(live) = self.phase.live_mut() {
            live.exit = LiveExit::Unread(Unpublished::new(exit));
        }
    }

    fn exited(&mut self, exit: Exit) {
        let reported = self.oom.take().map_or(0, |oom| oom.reported());
        if self.is_init() {
            let oom_kills = self.oom_kills.max(self.operations.oom_kills());
            if oom_kills > reported {
                self.publish(EventKind::OutOfMemory);
            }
            let status = exit.status;
            measure::report(|| Measurement::Exited { status, out_of_memory: oom_kills > 0 });
            // In a private pid namespace the kernel has killed the others; without one they are
            // killed here. Either way no other process holds the streams open.
            self.operations.signal_all(SIGKILL, None);
        }
        if let Some(live) = std::mem::replace(&mut self.phase, Phase::Exited).into_live() {
            self.phase = Phase::Draining(live.streams);
        }
        // Not valid if the container was deleted before Start: then its exit is known.
        if self.transition(Transition::Exited(exit)).is_ok() {
            self.publish(EventKind::Exited { pid: self.pid(), exit });
        }
        if self.is_init() {
            let operations = Arc::clone(&self.operations);
            self.released = Some(thread::run_or_block(move || {
                operations.record_usage();
                operations.release();
            }));
        }
    }

    fn kill(&mut self, signal: u32, all: bool) -> Result<(), Error> {
        if self.state().exit().is_some() {
            return Err(SignalError::Gone.into());
        }
        let live = self.phase.live().ok_or(Error::NotStarted)?;
        live.process.signal(signal)?;
        let pid = live.process.pid();
        if all {
            // The first process has the signal already; a second SIGKILL is harmless.
            self.operations.signal_all(signal, (signal != SIGKILL).then_some(pid));
        }
        // A frozen process does not die before it is thawed.
        if signal == SIGKILL && self.state() == State::Paused {
            self.operations.freeze(false)?;
        }
        Ok(())
    }

    fn resize(&mut self, columns: u32, rows: u32) -> Result<(), Error> {
        if self.state().exit().is_some() {
            return Err(SignalError::Gone.into());
        }
        let terminal = self.phase.streams().and_then(|streams| streams.terminal());
        let terminal = terminal.ok_or(Error::NoTerminal)?;
        terminal.resize(columns, rows).map_err(Error::Terminal)
    }

    async fn freeze(&mut self, frozen: bool) -> Result<(), Error> {
        let transition = if frozen { Transition::Paused } else { Transition::Resumed };
        self.state().after(transition)?;
        let operations = Arc::clone(&self.operations);
        blocking(move || operations.freeze(frozen)).await?;
        self.transition(transition)?;
        self.publish(if frozen { EventKind::Paused } else { EventKind::Resumed });
        Ok(())
    }

    async fn delete(&mut self) -> Result<(Exit, Option<File>), Error> {
        let exit = match (self.state(), &self.phase) {
            // As runc: a container that was never started is killed, a process has no exit status.
            (State::Created, Phase::Created(live)) => {
                let status = match live {
                    Some(live) => {
                        // It may have ended by itself.
                        let _ = live.process.signal(SIGKILL);
                        KILLED
                    }
                    None => 0,
                };
                let exit = Exit::now(status);
                self.transition(Transition::Exited(exit))?;
                self.phase = Phase::Exited;
                exit
            }
            (state, _) => {
                state.after(Transition::Deleted)?;
                state.exit().ok_or(Error::Gone)?
            }
        };
        self.drain().await;
        let mut overlay = None;
        if self.is_init() {
            // Without a thread nothing is removed, and Delete may be repeated.
            let thread = Thread::take()?;
            let operations = Arc::clone(&self.operations);
            overlay = thread.run(move || operations.remove()).await.map_err(|_| Error::Panicked)?;
            self.publish(EventKind::Deleted { pid: self.pid(), exit });
            measure::report(|| Measurement::Deleted { id: &self.id });
        }
        self.transition(Transition::Deleted)?;
        Ok((exit, overlay))
    }

    /// Waits until the client has read the output: the client deletes its pipes as soon as it gets
    /// the exit.
    async fn drain(&mut self) {
        // After a timeout, output without a reader is discarded.
        if let Phase::Draining(mut streams) = std::mem::replace(&mut self.phase, Phase::Exited) {
            let _ = timeout(COPY_TIMEOUT, streams.copied()).await;
            let _ = timeout(READER_TIMEOUT, streams.finish()).await;
        }
        if let Some(released) = self.released.take() {
            // A panic was logged; Delete continues.
            let _ = timeout(READER_TIMEOUT, released).await;
        }
    }
}

impl Phase {
    fn live(&self) -> Option<&Live> {
        match self {
            Phase::Created(live) | Phase::Starting { live, .. } => live.as_ref(),
            Phase::StartFailed(live) | Phase::Running(live) => Some(live),
            Phase::Exited | Phase::Draining(_) => None,
        }
    }

    fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Phase::Created(live) | Phase::Starting { live, .. } => live.as_mut(),
            Phase::StartFailed(live) | Phase::Running(live) => Some(live),
            Phase::Exited | Phase::Draining(_) => None,
        }
    }

    fn into_live(self) -> Option<Live> {
        match self {
            Phase::Created(live) | Phase::Starting { live, .. } => live,
            Phase::StartFailed(live) | Phase::Running(live) => Some(live),
            Phase::Exited | Phase::Draining(_) => None,
        }
    }

    fn streams(&mut self) -> Option<&mut Streams> {
        self.live_mut().map(|live| &mut live.streams)
    }

    /// Waits for the result of a start, or else for the exit and its output. Cancellation safe.
    async fn progress(&mut self) -> Progress {
        if let Phase::Starting { result, .. } = self {
            return Progress::Started(result.await.unwrap_or_else(|_| {
                Err(Failure::new(FailureKind::System, "the start was aborted: the shim panicked"))
            }));
        }
        if let Phase::Draining(streams) = self {
            streams.finish().await;
            return Progress::Drained;
        }
        if let Some(live) = self.live_mut() {
            match &mut live.exit {
                LiveExit::Pending(exit) => {
                    // An error: the reaper is gone, and with it the daemon.
                    if let Ok(exit) = exit.await {
                        return Progress::Reaped(exit);
                    }
                }
                LiveExit::Unread(unpublished) => {
                    return Progress::Exited(unpublished.read(&live.streams).await);
                }
            }
        }
        std::future::pending().await
    }
}

/// Waits until this moment; for ever without one.
async fn elapsed(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for the next out-of-memory kill.
async fn next_oom_kill(oom: &mut Option<OomEvents>) {
    if let Some(some) = oom {
        match some.next().await {
            Ok(()) => return,
            Err(error) => {
                log::warn!("out-of-memory kills are published at the exit only: {error}");
                *oom = None;
            }
        }
    }
    std::future::pending().await
}

#[cfg(test)]
pub(crate) mod tests;
