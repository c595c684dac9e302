//! The one task that changes a container's state.
//!
//! It takes requests one after the other, and in between hears that the guest runs or has ended.
//! It never waits for a guest: what takes its time (the start, the clean-up) runs beside it.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wherry_sandbox::process::{Exit, Process, SignalError, signal_each};
use wherry_sandbox::protocol::{Channel, Failure, FailureKind};
use wherry_sandbox::stdio::{CLIENT_OPENS, Kept};
use wherry_sandbox::{Bundle, Cgroup, cleanup, launch};

use crate::create::{Config, Newborn, Runtime};
use crate::event::{Event, EventSink};
use crate::handle::{Error, Snapshot};
use crate::state::{Happening, State};

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a handle asks for.
pub(crate) enum Request {
    Start(Reply<()>),
    Kill { signal: u32, all: bool, reply: Reply<()> },
    CloseStdin(Reply<()>),
    Delete(Reply<Exit>),
}

/// The status of a process that SIGKILL ended.
const KILLED: u32 = 137;

/// Starts the actor of a container that was just created.
pub(crate) fn spawn(
    runtime: &Runtime,
    config: Arc<Config>,
    newborn: Newborn,
) -> (mpsc::Sender<Request>, watch::Receiver<Snapshot>) {
    let pid = newborn.created.pid;
    // Taken hold of before anybody is told of its end: until then the pid cannot be another's.
    let process = Process::new(pid);
    let exit = runtime.reaper.wait(pid);
    let (snapshot, receiver) = watch::channel(Snapshot { state: State::Created });
    let (sender, requests) = mpsc::channel(16);
    let actor = Actor {
        events: Arc::clone(&runtime.events),
        config,
        bundle: newborn.bundle,
        cgroup: newborn.cgroup,
        systemd_cgroup: newborn.systemd_cgroup,
        process,
        guest: Some(newborn.created.guest),
        kept: Some(newborn.kept),
        draining: None,
        starting: None,
        snapshot,
    };
    tokio::spawn(actor.run(requests, exit));
    (sender, receiver)
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T, E, F>(work: F) -> Result<T, E>
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody waits for the answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}

struct Actor {
    events: Arc<dyn EventSink>,
    config: Arc<Config>,
    bundle: Bundle,
    cgroup: Option<Cgroup>,
    systemd_cgroup: bool,
    process: Process,
    /// Until Start.
    guest: Option<Channel>,
    /// Until the end.
    kept: Option<Kept>,
    /// From the end until Delete.
    draining: Option<JoinHandle<()>>,
    starting: Option<Starting>,
    snapshot: watch::Sender<Snapshot>,
}

/// A start on its way.
struct Starting {
    result: JoinHandle<Result<(), Failure>>,
    reply: Reply<()>,
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, exit: oneshot::Receiver<Exit>) {
        let mut exit = Some(exit);
        let mut ended = None;
        let mut client_opens = pin!(tokio::time::sleep(CLIENT_OPENS));
        let mut input_held = true;
        loop {
            tokio::select! {
                // An end that is known is told before anything else is done, but after a start
                // that is on its way: Exit never overtakes Start.
                biased;
                result = joined(&mut self.starting) => self.started(result),
                how = told(&mut exit), if ended.is_none() => {
                    ended = Some(how);
                }
                () = &mut client_opens, if input_held => {
                    input_held = false;
                    self.close_stdin();
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
                && let Some(exit) = ended
                && self.state().exit().is_none()
            {
                self.exited(exit);
            }
        }
    }

    fn state(&self) -> State {
        self.snapshot.borrow().state
    }

    fn id(&self) -> String {
        self.config.id.clone()
    }

    /// Carries out a request. True when it was the last one.
    async fn handle(&mut self, request: Request) -> bool {
        match request {
            Request::Start(reply) => self.start(reply),
            Request::Kill { signal, all, reply } => {
                let _ = reply.send(self.kill(signal, all));
            }
            Request::CloseStdin(reply) => {
                self.close_stdin();
                let _ = reply.send(Ok(()));
            }
            Request::Delete(reply) => {
                let result = self.delete().await;
                let last = result.is_ok();
                let _ = reply.send(result);
                return last;
            }
        }
        false
    }

    fn close_stdin(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.close_stdin();
        }
    }

    fn start(&mut self, reply: Reply<()>) {
        match (self.state().after(Happening::Started), self.guest.take()) {
            (Err(refused), guest) => {
                self.guest = guest;
                let _ = reply.send(Err(refused.into()));
            }
            // A second Start while the first is on its way meets a running container.
            (Ok(running), None) => {
                let refused = running.after(Happening::Started).err();
                let _ = reply.send(Err(refused.map_or(Error::Gone, Error::Refused)));
            }
            (Ok(_), Some(guest)) => {
                let bundle = self.bundle.clone();
                let result = tokio::spawn(blocking(move || launch::start(&bundle, &guest)));
                self.starting = Some(Starting { result, reply });
            }
        }
    }

    fn started(&mut self, result: Result<(), Failure>) {
        let Some(starting) = self.starting.take() else { return };
        let result = result.map_err(Error::Failure).and_then(|()| {
            self.become_(Happening::Started)?;
            self.events.send(Event::Started { id: self.id(), pid: self.process.pid() });
            Ok(())
        });
        let _ = starting.reply.send(result);
    }

    fn exited(&mut self, exit: Exit) {
        if let Some(cgroup) = &self.cgroup {
            if cgroup.oom_kills() > 0 {
                self.events.send(Event::OutOfMemory { id: self.id() });
            }
            // With a pid namespace of its own the kernel has ended the others; without, they are
            // ended here. Either way nobody else holds the streams open.
            signal_each(&cgroup.pids(), 9);
        }
        if let Some(kept) = self.kept.take() {
            self.draining = Some(tokio::spawn(kept.finish()));
        }
        if self.become_(Happening::Exited(exit)).is_ok() {
            self.events.send(Event::Exited { id: self.id(), pid: self.process.pid(), exit });
        }
    }

    fn kill(&mut self, signal: u32, all: bool) -> Result<(), Error> {
        if self.state().exit().is_some() {
            return Err(SignalError::Gone.into());
        }
        self.process.signal(signal)?;
        if all && let (Some(cgroup), Ok(signal)) = (&self.cgroup, i32::try_from(signal)) {
            let mut others = cgroup.pids();
            others.retain(|pid| *pid != self.process.pid());
            signal_each(&others, signal);
        }
        Ok(())
    }

    async fn delete(&mut self) -> Result<Exit, Error> {
        let exit = match self.state() {
            // One that was never started may be deleted as runc has it: it is ended first.
            State::Created if self.starting.is_none() => {
                let _ = self.process.signal(9);
                Exit::now(KILLED)
            }
            state => {
                state.after(Happening::Deleted)?;
                state.exit().ok_or(Error::Gone)?
            }
        };
        if let Some(draining) = self.draining.take() {
            draining.abort();
        }
        let (bundle, systemd) = (self.bundle.clone(), self.systemd_cgroup);
        let left = blocking(move || {
            Ok::<_, std::convert::Infallible>(cleanup::container(&bundle, systemd))
        });
        let left = match left.await {
            Ok(left) => left,
            Err(never) => match never {},
        };
        for sentence in left {
            log::error!("{}: {sentence}", self.config.id);
        }
        if self.state() == State::Created {
            self.become_(Happening::Exited(exit))?;
        }
        self.become_(Happening::Deleted)?;
        self.events.send(Event::Deleted { id: self.id(), pid: self.process.pid(), exit });
        Ok(exit)
    }

    fn become_(&mut self, what: Happening) -> Result<(), Error> {
        let state = self.state().after(what)?;
        self.snapshot.send_replace(Snapshot { state });
        Ok(())
    }
}

/// The result of a start on its way; never, when there is none.
async fn joined(starting: &mut Option<Starting>) -> Result<(), Failure> {
    match starting {
        Some(starting) => (&mut starting.result).await.unwrap_or_else(|error| {
            Err(Failure::new(FailureKind::System, format!("the start was abandoned: {error}")))
        }),
        None => std::future::pending().await,
    }
}

/// How the first process ended, once it has.
async fn told(exit: &mut Option<oneshot::Receiver<Exit>>) -> Exit {
    if let Some(receiver) = exit
        && let Ok(how) = receiver.await
    {
        return how;
    }
    // Only when the reaper is gone, and with it the daemon.
    std::future::pending().await
}
