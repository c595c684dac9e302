//! The one task that changes a process's state: a container's first one, or another in it.
//!
//! It takes requests one after the other, and in between hears that the guest runs or has ended.
//! It never waits for a guest: what takes its time (the start, the draining of output) runs
//! beside it.

use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use wherry_sandbox::cgroup::Meter;
use wherry_sandbox::cgroup::oom::OomWatch;
use wherry_sandbox::hooks::Batch;
use wherry_sandbox::process::{Exit, Process, Reaper, SignalError};
use wherry_sandbox::protocol::{Channel, Failure, FailureKind};
use wherry_sandbox::stdio::{CLIENT_OPENS, Streams};
use wherry_sandbox::thread::{self, Thread};
use wherry_sandbox::{Bundle, cleanup, launch};

use crate::create::{Config, Newborn, Runtime};
use crate::event::{Event, EventSink, What};
use crate::exec;
use crate::handle::{Error, Snapshot};
use crate::state::{Happening, State};
use crate::unread::{self, Unpublished};

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a handle asks for.
pub(crate) enum Request {
    Start(Reply<()>),
    Kill { signal: u32, all: bool, reply: Reply<()> },
    CloseStdin(Reply<()>),
    Resize { columns: u32, rows: u32, reply: Reply<()> },
    Pause(Reply<()>),
    Resume(Reply<()>),
    Delete(Reply<Exit>),
}

/// Which process an actor is for.
pub(crate) enum Role {
    /// A container's first one, which exists.
    Init { config: Arc<Config>, newborn: Box<Newborn> },
    /// Another, which Start makes.
    Exec(exec::Plan),
}

/// The status of a process that SIGKILL ended.
pub(crate) const KILLED: u32 = 137;
/// How long Delete waits for the last output to be copied, as runc's shim does: the client of a terminal may not read, or
/// a process that lives on may have the stream open.
const LAST_OUTPUT: Duration = Duration::from_secs(10);
/// How long Delete waits for somebody to open a pipe with output in it that nobody has read. A client of
/// containerd begins to open it before it starts the process, but may only get to it after the end.
const LAST_READER: Duration = Duration::from_secs(1);
pub(crate) const SIGKILL: u32 = 9;

/// Starts the actor of a process.
pub(crate) fn spawn(
    runtime: &Runtime,
    role: Role,
) -> (mpsc::Sender<Request>, watch::Receiver<Snapshot>) {
    let (snapshot, receiver) = watch::channel(Snapshot { state: State::Created, pid: 0 });
    let (sender, requests) = mpsc::channel(16);
    let mut actor = Actor {
        events: Arc::clone(&runtime.events),
        reaper: runtime.reaper.clone(),
        id: String::new(),
        exec_id: String::new(),
        process: None,
        exit: None,
        streams: None,
        copied: Vec::new(),
        draining: JoinSet::new(),
        overlay: None,
        starting: None,
        container: None,
        launch: None,
        out_of_memory: None,
        snapshot,
    };
    match role {
        Role::Init { config, newborn } => {
            actor.id.clone_from(&config.id);
            actor.out_of_memory = newborn.meter.as_ref().and_then(|meter| {
                // Where there are no notifications it is told at the end.
                OomWatch::new(meter).map_err(|error| log::info!("{}: {error}", config.id)).ok()
            });
            if let Some(meter) = newborn.meter.clone().filter(|meter| !meter.stays()) {
                // The result is kept for after the end.
                drop(thread::run_or_block(move || drop(meter.read())));
            }
            let Newborn { process, guest, poststart, streams, bundle, meter, mounts } = *newborn;
            actor.container = Some(Whole { config, bundle, meter, mounts });
            actor.launch = Some(Launch::Go(guest, poststart));
            actor.take(process, streams);
        }
        Role::Exec(plan) => {
            actor.id.clone_from(&plan.container.id);
            actor.exec_id.clone_from(&plan.config.exec_id);
            actor.launch = Some(Launch::Make(plan));
        }
    }
    tokio::spawn(actor.run(requests));
    (sender, receiver)
}

/// Asks an actor, and waits for its answer.
pub(crate) async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| Error::Gone)?;
    answer.await.map_err(|_| Error::Gone)?
}

/// Waits for the end of an actor's process.
pub(crate) async fn wait(snapshot: &watch::Receiver<Snapshot>) -> Result<Exit, Error> {
    let mut snapshot = snapshot.clone();
    let ended = snapshot.wait_for(|now| now.state.exit().is_some()).await;
    ended.ok().and_then(|now| now.state.exit()).ok_or(Error::Gone)
}

/// Runs what blocks on a thread, which is taken before anything is begun.
///
/// # Errors
/// [`Error::Thread`] when there is none to be had; those of `work`; [`Error::Panicked`].
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
    events: Arc<dyn EventSink>,
    reaper: Reaper,
    id: String,
    /// Empty for a container's first process.
    exec_id: String,
    process: Option<Arc<Process>>,
    exit: Option<oneshot::Receiver<Exit>>,
    /// Until the end.
    streams: Option<Streams>,
    /// From the end until all output is where a client finds it.
    copied: Vec<oneshot::Receiver<()>>,
    /// What Delete waits for: from the end until then, or until nobody can ask for that any more.
    draining: JoinSet<()>,
    /// From Delete until it has been answered: see [`cleanup::hold`].
    overlay: Option<File>,
    starting: Option<Starting>,
    /// For a container's first process.
    container: Option<Whole>,
    /// Until Start.
    launch: Option<Launch>,
    /// For a container's first process, until its end.
    out_of_memory: Option<OomWatch>,
    snapshot: watch::Sender<Snapshot>,
}

/// What there is of a container besides its first process.
struct Whole {
    config: Arc<Config>,
    bundle: Bundle,
    meter: Option<Meter>,
    /// Its mount namespace, until its end has been told: whoever lets go of it last waits until the kernel has undone it,
    /// and a process cannot be collected before it has.
    mounts: Option<File>,
}

/// What Start does.
enum Launch {
    /// Tells the process that waits to go on, and runs the hooks that are due then.
    Go(Channel, Batch),
    /// Makes a process.
    Make(exec::Plan),
}

/// What Start yields: the process, if it makes one.
type Made = Result<Option<(Process, Streams)>, Failure>;

/// A start on its way.
struct Starting {
    result: oneshot::Receiver<Made>,
    reply: Reply<()>,
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut ended = None;
        let mut client_opens = pin!(tokio::time::sleep(CLIENT_OPENS));
        let mut input_held = true;
        loop {
            tokio::select! {
                // An end that is known is told before anything else is done, but after a start
                // that is on its way: Exit never overtakes Start.
                biased;
                result = joined(&mut self.starting) => {
                    self.started(result);
                    client_opens.as_mut().reset(tokio::time::Instant::now() + CLIENT_OPENS);
                }
                () = out_of_memory(&mut self.out_of_memory), if self.starting.is_none() => {
                    self.tell(What::OutOfMemory);
                }
                how = told(&mut self.exit), if ended.is_none() => {
                    ended = Some(Unpublished::new(how));
                }
                () = unread::read(&mut ended, self.streams.as_ref()) => {}
                () = &mut client_opens, if input_held && self.streams.is_some() => {
                    input_held = false;
                    // A terminal's input is the terminal's.
                    if let Some(Streams::Pipes(kept)) = &mut self.streams {
                        kept.close_stdin();
                    }
                }
                request = requests.recv() => match request {
                    Some(request) => {
                        if self.handle(request).await {
                            return;
                        }
                    }
                    // Every handle is gone: the container was deleted, or the daemon ends.
                    None => return,
                },
            }
            if self.starting.is_none()
                && let Some(exit) = ended.as_ref().and_then(Unpublished::due)
                && self.state().exit().is_none()
            {
                self.exited(exit);
            }
        }
    }

    fn state(&self) -> State {
        self.snapshot.borrow().state
    }

    fn pid(&self) -> i32 {
        self.snapshot.borrow().pid
    }

    fn tell(&self, what: What) {
        self.events.send(Event { id: self.id.clone(), exec_id: self.exec_id.clone(), what });
    }

    fn become_(&mut self, what: Happening) -> Result<(), Error> {
        let state = self.state().after(what)?;
        self.snapshot.send_modify(|now| now.state = state);
        Ok(())
    }

    /// Asks for the end of the process before its pid is published.
    fn take(&mut self, process: Arc<Process>, streams: Streams) {
        let pid = process.pid();
        self.process = Some(process);
        self.exit = Some(self.reaper.wait(pid));
        self.streams = Some(streams);
        self.snapshot.send_modify(|now| now.pid = pid);
    }

    /// Carries out a request. True when it was the last one.
    async fn handle(&mut self, request: Request) -> bool {
        match request {
            Request::Start(reply) => self.start(reply),
            Request::Kill { signal, all, reply } => {
                let _ = reply.send(self.kill(signal, all));
            }
            Request::CloseStdin(reply) => {
                if let Some(streams) = &mut self.streams {
                    streams.close_stdin();
                }
                let _ = reply.send(Ok(()));
            }
            Request::Resize { columns, rows, reply } => {
                let _ = reply.send(self.resize(columns, rows));
            }
            Request::Pause(reply) => {
                let _ = reply.send(self.freeze(Happening::Paused).await);
            }
            Request::Resume(reply) => {
                let _ = reply.send(self.freeze(Happening::Resumed).await);
            }
            Request::Delete(reply) => {
                let result = self.delete().await;
                let last = result.is_ok();
                let _ = reply.send(result);
                if let Some(overlay) = self.overlay.take() {
                    drop(thread::run_or_block(move || drop(overlay)));
                }
                return last;
            }
        }
        false
    }

    fn start(&mut self, reply: Reply<()>) {
        let running = match self.state().after(Happening::Started) {
            Ok(running) => running,
            Err(refused) => {
                let _ = reply.send(Err(refused.into()));
                return;
            }
        };
        // A second Start while the first is on its way meets a running container.
        if self.launch.is_none() {
            let refused = running.after(Happening::Started).err();
            let _ = reply.send(Err(refused.map_or(Error::Gone, Error::Refused)));
            return;
        }
        // Without a thread nothing has been begun, and Start may be asked for again.
        let thread = match Thread::take() {
            Ok(thread) => thread,
            Err(error) => {
                let _ = reply.send(Err(error.into()));
                return;
            }
        };
        let result = match (self.launch.take(), &self.container) {
            (Some(Launch::Go(guest, after)), Some(whole)) => {
                let (bundle, reaper, pid) = (whole.bundle.clone(), self.reaper.clone(), self.pid());
                thread.run(move || {
                    launch::start(&bundle, &guest, &after, pid, &reaper).map(|()| None)
                })
            }
            (Some(Launch::Make(plan)), _) => thread.run(move || exec::start(&plan).map(Some)),
            _ => {
                let _ = reply.send(Err(Error::Gone));
                return;
            }
        };
        self.starting = Some(Starting { result, reply });
    }

    fn started(&mut self, result: Made) {
        let Some(starting) = self.starting.take() else { return };
        let result = match result {
            Ok(made) => {
                if let Some((process, streams)) = made {
                    self.take(Arc::new(process), streams);
                }
                self.become_(Happening::Started)
                    .map(|()| self.tell(What::Started { pid: self.pid() }))
            }
            Err(failure) => {
                if self.process.is_none() {
                    // One that never came to be has ended as it would have, for whoever waits.
                    let status = u32::try_from(failure.kind.exit_status()).unwrap_or(KILLED);
                    let _ = self.become_(Happening::Exited(Exit::now(status)));
                }
                Err(failure.into())
            }
        };
        let _ = starting.reply.send(result);
    }

    fn exited(&mut self, exit: Exit) {
        if let Some(Whole { meter: Some(meter), .. }) = &self.container {
            let told = self.out_of_memory.take().map_or(0, |watch| watch.told());
            if meter.oom_kills() > told {
                self.tell(What::OutOfMemory);
            }
            // With a pid namespace of its own the kernel has ended the others; without, they are
            // ended here. Either way no other process holds the streams open.
            meter.cgroup().signal(SIGKILL, None);
        }
        if let Some(mut streams) = self.streams.take() {
            self.copied = streams.copied();
            self.draining.spawn(streams.finish());
        }
        if self.become_(Happening::Exited(exit)).is_ok() {
            self.tell(What::Exited { pid: self.pid(), exit });
        }
        if let Some(whole) = &mut self.container {
            let mounts = whole.mounts.take();
            // Before somebody else removes it: see `Meter`.
            let meter = whole.meter.clone().filter(|meter| !meter.stays());
            let done = thread::run_or_block(move || {
                meter.map(|meter| meter.read());
                drop(mounts);
            });
            self.draining.spawn(async {
                let _ = done.await;
            });
        }
    }

    fn kill(&mut self, signal: u32, all: bool) -> Result<(), Error> {
        if self.state().exit().is_some() {
            return Err(SignalError::Gone.into());
        }
        let process = self.process.as_ref().ok_or(Error::NotStarted)?;
        process.signal(signal)?;
        if let Some(Whole { meter: Some(meter), .. }) = &self.container {
            if all {
                // SIGKILL may hit it twice.
                meter.cgroup().signal(signal, (signal != SIGKILL).then(|| process.pid()));
            }
            // A frozen process does not die before it is thawed.
            if signal == SIGKILL && self.state() == State::Paused {
                meter.cgroup().freeze(false).map_err(|error| Error::Cgroup(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn resize(&self, columns: u32, rows: u32) -> Result<(), Error> {
        if self.state().exit().is_some() {
            return Err(SignalError::Gone.into());
        }
        let terminal = self.streams.as_ref().and_then(Streams::terminal).ok_or_else(|| {
            Error::Terminal(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "the process has no terminal",
            ))
        })?;
        terminal.resize(columns, rows).map_err(Error::Terminal)
    }

    async fn freeze(&mut self, what: Happening) -> Result<(), Error> {
        self.state().after(what)?;
        let Some(Whole { meter: Some(meter), .. }) = &self.container else {
            return Err(Error::Gone);
        };
        let cgroup = meter.cgroup().clone();
        let paused = what == Happening::Paused;
        blocking(move || cgroup.freeze(paused).map_err(|error| Error::Cgroup(error.to_string())))
            .await?;
        self.become_(what)?;
        self.tell(if what == Happening::Paused { What::Paused } else { What::Resumed });
        Ok(())
    }

    async fn delete(&mut self) -> Result<Exit, Error> {
        let exit = match self.state() {
            // As runc's shim does: a container that was never started is killed first; an exec that
            // was never started has no process, and its exit status is 0.
            State::Created if self.starting.is_none() => {
                if let Some(process) = &self.process {
                    let _ = process.signal(SIGKILL);
                }
                let exit = Exit::now(if self.process.is_some() { KILLED } else { 0 });
                self.become_(Happening::Exited(exit))?;
                exit
            }
            state => {
                state.after(Happening::Deleted)?;
                state.exit().ok_or(Error::Gone)?
            }
        };
        // A client deletes as soon as it hears of the end.
        let copied = async {
            for copied in &mut self.copied {
                let _ = copied.await;
            }
        };
        let _ = tokio::time::timeout(LAST_OUTPUT, copied).await;
        self.copied.clear();
        let drained = async { while self.draining.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_READER, drained).await;
        self.draining.abort_all();
        if let Some(whole) = &mut self.container {
            // Without a thread nothing is removed, and Delete may be asked for again.
            let thread = Thread::take()?;
            self.overlay = cleanup::hold(&whole.bundle, &whole.config.rootfs);
            let (bundle, reaper) = (whole.bundle.clone(), self.reaper.clone());
            let mounts = whole.mounts.take();
            let left = thread.run(move || {
                drop(mounts);
                cleanup::container(&bundle, Some(&reaper))
            });
            for sentence in left.await.map_err(|_| Error::Panicked)? {
                log::error!("{}: {sentence}", self.id);
            }
            self.tell(What::Deleted { pid: self.pid(), exit });
        }
        self.become_(Happening::Deleted)?;
        Ok(exit)
    }
}

/// The result of a start on its way; never, when there is none.
async fn joined(starting: &mut Option<Starting>) -> Made {
    match starting {
        Some(starting) => (&mut starting.result).await.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::System, "the start was abandoned: the shim panicked"))
        }),
        None => std::future::pending().await,
    }
}

/// Hears of the next kill for want of memory.
async fn out_of_memory(watch: &mut Option<OomWatch>) {
    if let Some(some) = watch {
        match some.next().await {
            Ok(()) => return,
            Err(error) => {
                log::warn!("no more is heard of out-of-memory kills before the end: {error}");
                *watch = None;
            }
        }
    }
    std::future::pending().await
}

/// How the process ended, once it has.
async fn told(exit: &mut Option<oneshot::Receiver<Exit>>) -> Exit {
    if let Some(receiver) = exit
        && let Ok(how) = receiver.await
    {
        return how;
    }
    // There is none yet; or the reaper is gone, and with it the daemon.
    std::future::pending().await
}
