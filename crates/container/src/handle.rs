//! The handle to a container.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::LinuxResources;
use tokio::sync::{mpsc, watch};
use wherry_sandbox::cgroup::Meter;
use wherry_sandbox::cgroup::usage::Usage;
use wherry_sandbox::process::{Exit, Process, SignalError};
use wherry_sandbox::thread::NoThread;
use wherry_sandbox::{Bundle, Cgroup, Failure, cleanup};

use crate::actor::{self, KILLED, Request, Role, SIGKILL, ask};
use crate::create::{self, Config, Runtime};
use crate::event::{Event, What};
use crate::exec::{Exec, ExecConfig, Plan};
use crate::state::{Refused, State};

/// A container. Queries answer at once, whatever the guest does.
#[derive(Clone)]
pub struct Container {
    runtime: Arc<Runtime>,
    config: Arc<Config>,
    meter: Option<Meter>,
    init: Arc<Process>,
    requests: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Snapshot>,
    execs: Arc<Mutex<HashMap<String, Exec>>>,
}

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its state.
    pub state: State,
    /// Its pid in the daemon's namespace, also after its end; 0 before there is one.
    pub pid: i32,
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
    /// The terminal could not be sized, or there is none.
    #[error("cannot resize the terminal: {0}")]
    Terminal(io::Error),
    /// The process has not been started.
    #[error("the process has not been started")]
    NotStarted,
    /// A process can only join a container that runs.
    #[error("cannot exec in a {0} container")]
    NotRunning(&'static str),
    /// The id is taken.
    #[error("exec {0:?} already exists")]
    ExecExists(String),
    /// The cgroup does not do what was asked for.
    #[error("{0}")]
    Cgroup(String),
    /// There is no thread to do it on. Nothing has been done: it may be asked for again.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The daemon has a fault, which its log names.
    #[error("the shim panicked: its log has the place")]
    Panicked,
    /// It is gone.
    #[error("it has been deleted")]
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
        let (meter, init) = (newborn.meter.clone(), Arc::clone(&newborn.process));
        runtime.events.send(Event {
            id: config.id.clone(),
            exec_id: String::new(),
            what: What::Created {
                bundle: config.bundle.display().to_string(),
                rootfs: config.rootfs.clone(),
                stdio: config.stdio.clone(),
                terminal: config.terminal,
                pid: init.pid(),
            },
        });
        let role = Role::Init { config: Arc::clone(&config), newborn: Box::new(newborn) };
        let (requests, snapshot) = actor::spawn(&runtime, role);
        Ok(Container { runtime, config, meter, init, requests, snapshot, execs: Arc::default() })
    }

    /// What it was created from.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its first process, in the daemon's pid namespace. Known for ever, also after the end.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.snapshot().pid
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
        actor::wait(&self.snapshot).await
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it is created; [`Error::Failure`] when its program cannot be
    /// executed.
    pub async fn start(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Start).await
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// [`Error::Signal`] with [`SignalError::Gone`] when it has ended.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Error> {
        ask(&self.requests, |reply| Request::Kill { signal, all, reply }).await
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

    /// Freezes all its processes.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it runs; [`Error::Cgroup`].
    pub async fn pause(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Pause).await
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// [`Error::Refused`] unless it is paused; [`Error::Cgroup`].
    pub async fn resume(&self) -> Result<(), Error> {
        ask(&self.requests, Request::Resume).await
    }

    /// Changes its limits.
    ///
    /// # Errors
    /// [`Error::Cgroup`] with what the kernel refused; [`Error::Signal`] after its end.
    pub async fn update(&self, resources: LinuxResources) -> Result<(), Error> {
        let cgroup = self.living_cgroup()?;
        actor::blocking(move || cgroup.update(&resources).map_err(Error::Cgroup)).await
    }

    /// Removes all that is left of it.
    ///
    /// # Errors
    /// [`Error::Refused`] while the guest lives.
    pub async fn delete(&self) -> Result<Exit, Error> {
        match ask(&self.requests, Request::Delete).await {
            Err(Error::Gone) if !matches!(self.snapshot().state, State::Deleted(_)) => {
                self.delete_without_actor().await
            }
            result => result,
        }
    }

    /// Removes all that is left where the actor has panicked: all that is needed for it is in the bundle.
    async fn delete_without_actor(&self) -> Result<Exit, Error> {
        log::error!("{}: it is removed after a panic", self.config.id);
        let _ = self.init.signal(SIGKILL);
        let bundle = Bundle::new(&self.config.bundle, &self.config.id);
        let reaper = self.runtime.reaper.clone();
        let left =
            actor::blocking(move || Ok::<_, Error>(cleanup::container(&bundle, Some(&reaper))));
        for sentence in left.await? {
            log::error!("{}: {sentence}", self.config.id);
        }
        let (pid, known) = (self.pid(), self.snapshot().state.exit());
        let exit = known.unwrap_or_else(|| Exit::now(KILLED));
        let tell = |what| {
            let id = self.config.id.clone();
            self.runtime.events.send(Event { id, exec_id: String::new(), what });
        };
        if known.is_none() {
            tell(What::Exited { pid, exit });
        }
        tell(What::Deleted { pid, exit });
        Ok(exit)
    }

    /// Adds another process, which Start lets run.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::ExecExists`].
    pub fn exec(&self, config: ExecConfig) -> Result<(), Error> {
        match self.snapshot().state {
            State::Running => {}
            state => return Err(Error::NotRunning(state.name())),
        }
        let exec_id = config.exec_id.clone();
        let mut execs = self.lock();
        if execs.contains_key(&exec_id) {
            return Err(Error::ExecExists(exec_id));
        }
        let exec = Exec::add(Plan {
            runtime: Arc::clone(&self.runtime),
            container: Arc::clone(&self.config),
            init: Arc::clone(&self.init),
            config: Arc::new(config),
        });
        self.runtime.events.send(Event {
            id: self.config.id.clone(),
            exec_id: exec_id.clone(),
            what: What::ExecAdded,
        });
        execs.insert(exec_id, exec);
        Ok(())
    }

    /// The process that was added under this id.
    #[must_use]
    pub fn find_exec(&self, exec_id: &str) -> Option<Exec> {
        self.lock().get(exec_id).cloned()
    }

    /// Forgets the process of this id, which has been deleted.
    pub fn forget_exec(&self, exec_id: &str) {
        self.lock().remove(exec_id);
    }

    /// The ids of the processes that were added, by their pids, as far as they exist.
    #[must_use]
    pub fn exec_pids(&self) -> HashMap<i32, String> {
        let running = |exec: &Exec| (exec.snapshot().pid, exec.config().exec_id.clone());
        self.lock().values().map(running).filter(|(pid, _)| *pid != 0).collect()
    }

    /// The processes in it, by their pids in the daemon's pid namespace; none after its end.
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

    /// What it has used so far, also after its end. None when that cannot be known.
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

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_image::Cache;
    use wherry_sandbox::compiler::{Bounds, CompilerProgram};
    use wherry_sandbox::launch::HostProgram;
    use wherry_sandbox::process::Reaper;
    use wherry_sandbox::stdio::StdioPaths;

    #[derive(Default)]
    struct Told(Mutex<Vec<What>>);

    impl crate::EventSink for Told {
        fn send(&self, event: Event) {
            self.0.lock().unwrap().push(event.what);
        }
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
    async fn a_container_whose_actor_has_panicked_can_be_deleted() {
        let folder = tempfile::tempdir().unwrap();
        // A host is looked for beside this executable. The test runs none.
        let beside = std::env::current_exe().unwrap().with_file_name("wherry-none-host");
        std::fs::write(beside, "").unwrap();
        let events = Arc::new(Told::default());
        let reaper = Reaper::start().unwrap();
        let runtime = Arc::new(Runtime {
            program: HostProgram::find("none").unwrap(),
            compiler: CompilerProgram::own().unwrap(),
            cache: Cache::new(folder.path().join("cache"), "none", 0),
            bounds: Bounds { memory: 1 << 20, seconds: 1, module: 1 << 20, code: 1 << 20 },
            reaper: reaper.clone(),
            events: events.clone(),
            warm: Mutex::new(None),
        });
        let config = Arc::new(Config {
            id: "x".into(),
            bundle: folder.path().into(),
            rootfs: Vec::new(),
            stdio: StdioPaths::default(),
            terminal: false,
            systemd_cgroup: false,
            no_pivot: false,
            io_uid: 0,
            io_gid: 0,
            plugins: std::path::PathBuf::new(),
            no_engine_seccomp: false,
            cancel: wherry_sandbox::cancel::Cancel::default(),
        });
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let init = Arc::new(Process::new(i32::try_from(child.id()).unwrap()));
        let ended = reaper.wait(init.pid());
        // Both ends of an actor that has panicked are closed.
        let (requests, _) = mpsc::channel(1);
        let (_, snapshot) = watch::channel(Snapshot { state: State::Running, pid: init.pid() });
        let execs = Arc::default();
        let container = Container { runtime, config, meter: None, init, requests, snapshot, execs };
        assert_eq!(container.delete().await.unwrap().status, 137);
        assert_eq!(ended.await.unwrap().status, 137);
        let told = events.0.lock().unwrap();
        assert!(matches!(told.as_slice(), [What::Exited { .. }, What::Deleted { .. }]), "{told:?}");
    }
}
