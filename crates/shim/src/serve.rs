//! The daemon: serves the Task API for one container, for one pod or, as the manager, for all
//! containers of a containerd's namespace.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::LevelFilter;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;
use wherry_container::Runtime;
use wherry_supervisor::launch::Host;
use wherry_supervisor::settings::Settings;
use wherry_supervisor::{Engine, Engines, Supervisor};
use wherry_sys::handover::Incoming;
use wherry_sys::logger::{self, ContainerLog};
use wherry_sys::reaper::Reaper;
use wherry_sys::socket::SocketName;
use wherry_sys::{daemon, handover, memory};
use wherry_task::{
    Connections, Lifetime, Publisher, RestoredConnection, SavedService, Service, daemon_service,
    services,
};

use crate::Shim;
use crate::error::{Error, Result};
use crate::group::Sharing;
use crate::info::VERSION;
use crate::operator::{self, Manager, Serving};
use crate::peer::Trusted;
use crate::upgrade::Upgrade;

/// A daemon.
pub(crate) struct Daemon {
    pub(crate) shim: Shim,
    pub(crate) listener: UnixListener,
    pub(crate) name: OwnName,
    pub(crate) engines: Engines,
    /// The administrator's settings.
    pub(crate) limits: Settings,
    /// The path of this executable, where a new version is installed.
    pub(crate) executable: PathBuf,
    /// The arguments that `ps` shows.
    pub(crate) title: Vec<String>,
    /// The identity and the settings of a manager.
    pub(crate) managed: Option<(Manager, operator::Settings)>,
    pub(crate) namespace: String,
    /// containerd's ttrpc socket, which takes events.
    pub(crate) ttrpc_address: String,
    pub(crate) debug: bool,
    /// The number of handovers so far.
    pub(crate) upgrades: u64,
}

/// The container whose `start` made the daemon.
pub(crate) struct First {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// Whether that is the bundle of a pod sandbox.
    pub(crate) is_pod: bool,
    /// Whether the path of its cgroup has the form of systemd's driver.
    pub(crate) by_systemd: bool,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) shim_cgroup: String,
}

/// The state that came along in a handover.
pub(crate) struct Restored {
    pub(crate) service: SavedService,
    /// When the last version was suspended.
    pub(crate) since: SystemTime,
    pub(crate) from: Incoming,
}

/// How long the daemon waits at its end for containerd to acknowledge the last events.
const EVENT_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the daemon waits at its end for its clients to disconnect. containerd does so after the
/// answer to Shutdown.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long no request may be in progress before the daemon ends although a client is connected. A
/// request takes less than a millisecond from the client's write to the daemon's read on an idle
/// machine.
const QUIET_PERIOD: Duration = Duration::from_millis(500);

/// Serves until the service ends, then exits. `first`: none if systemd started the daemon.
pub(crate) fn serve(daemon: Daemon, first: Option<&First>) -> ! {
    handover::block_signals();
    memory::share_one_heap();
    if first.is_some_and(|first| first.shim_cgroup.is_empty() && first.by_systemd) {
        wherry_cgroup::start_grace_period();
    }
    start_log(&daemon);
    // Create opens each container's log, this one's too.
    let log = first.map(|first| ContainerLog::open(&first.id, &first.bundle.join("log")));
    if daemon.shim.sharing == Sharing::Manager
        && let Err(error) = daemon::raise_descriptor_limit()
    {
        log::warn!("cannot raise the shim's limit on descriptors: {error}");
    }
    // Before the runtime: the host loads its engine while containerd connects. That of a pod starts
    // with the pod, because containerd waits for the pod alone.
    let is_pod = first.is_some_and(|first| first.is_pod);
    let spare = if is_pod { None } else { spawn_host(&daemon.engines, first) };
    if let Err(error) = daemon::raise_oom_score_adj() {
        log::warn!("cannot raise the shim's oom_score_adj: {error}");
    }
    daemon::ignore_terminal_signals();
    join_shim_cgroup(daemon.shim, first.map_or("", |first| &first.shim_cgroup));
    match spare {
        Some((engine, Ok(host))) => engine.spare.put(host),
        Some((engine, Err(error))) => {
            log::error!("cannot run {}: {error}", engine.host.path().display());
        }
        None => {}
    }
    run_to_the_end(daemon, log, None)
}

/// Starts a host of the engine that the first container gets, or gets first. None if its
/// annotation names none that is installed: that is the error of Create.
fn spawn_host<'e>(
    engines: &'e Engines,
    first: Option<&First>,
) -> Option<(&'e Engine, std::io::Result<Host>)> {
    let engine = match first {
        Some(first) => engines.preferred(&first.annotations)?,
        None => &engines.first,
    };
    Some((engine, Host::spawn(&engine.host)))
}

/// As [`serve`], with the state that the last version of this daemon has handed over.
pub(crate) fn resume(daemon: Daemon, log: Option<ContainerLog>, restored: Restored) -> ! {
    memory::share_one_heap();
    start_log(&daemon);
    daemon::ignore_terminal_signals();
    run_to_the_end(daemon, log, Some(restored))
}

fn run_to_the_end(daemon: Daemon, log: Option<ContainerLog>, restored: Option<Restored>) -> ! {
    let result = run_on_this_thread(daemon, log.as_ref(), restored);
    if let Err(error) = &result {
        log::error!("the shim ends: {error}");
    }
    drop(log);
    std::process::exit(i32::from(result.is_err()))
}

/// Logs at the level of containerd, or of a manager's settings, which containerd may raise.
fn start_log(daemon: &Daemon) {
    let set = daemon.managed.as_ref().map_or(LevelFilter::Info, |(_, set)| set.log_level);
    logger::start(if daemon.debug { set.max(LevelFilter::Debug) } else { set });
}

/// Moves this process to the cgroup that the options of the first container name. The manager stays
/// where it is: the options of one container are not for the daemon of all.
fn join_shim_cgroup(shim: Shim, cgroup: &str) {
    if cgroup.is_empty() {
        return;
    }
    if shim.sharing == Sharing::Manager {
        log::warn!("ignored the runtime option ShimCgroup: the shim serves all containers");
    } else if let Err(error) = wherry_cgroup::create_and_join(Path::new(cgroup)) {
        log::warn!("ignored the runtime option ShimCgroup: {error}");
    }
}

/// The socket's name in its directory, removed when this is dropped.
pub(crate) struct OwnName(pub(crate) SocketName);

impl Drop for OwnName {
    fn drop(&mut self) {
        self.0.remove();
    }
}

fn run_on_this_thread(
    daemon: Daemon,
    log: Option<&ContainerLog>,
    restored: Option<Restored>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Daemon)?;
    let result = runtime.block_on(run(daemon, log, restored));
    // Without waiting for a compiler whose container is gone: it ends with this process.
    runtime.shutdown_background();
    result
}

async fn run(daemon: Daemon, log: Option<&ContainerLog>, restored: Option<Restored>) -> Result<()> {
    let reaper = Reaper::default();
    wherry_container::reap_children(reaper.clone()).map_err(Error::Daemon)?;
    let publisher = Publisher::start(&daemon.ttrpc_address, &daemon.namespace);
    let shim = daemon.shim;
    // The daemon of a group has used the only host that it needs.
    let (lifetime, spare_hosts, spare_idle) = match &daemon.managed {
        None => (Lifetime::Group, 0, Duration::ZERO),
        Some((_, set)) => (Lifetime::Manager { idle: set.idle }, set.spare_hosts, set.spare_idle),
    };
    let Daemon { listener, name, mut engines, limits, .. } = daemon;
    for warning in &limits.warnings {
        log::warn!("{warning}");
    }
    engines.first.spare.keep(spare_hosts, spare_idle);
    pin(&engines);
    let supervisor = Arc::new(Supervisor { engines, bounds: limits.bounds, reaper });
    let runtime = Arc::new(Runtime {
        supervisor: Arc::clone(&supervisor),
        events: Arc::new(publisher.clone()),
    });
    let connections = Connections::default();
    let (service, open) = match restored {
        None => (Service::new(Arc::clone(&runtime), connections.clone(), lifetime), Vec::new()),
        Some(restored) => {
            restored.service(Arc::clone(&runtime), &publisher, connections.clone(), lifetime)?
        }
    };
    let mut signals = signal(SignalKind::user_defined2()).map_err(Error::Daemon)?;
    let upgrade = Upgrade {
        shim,
        executable: daemon.executable,
        title: daemon.title,
        managed: daemon.managed.clone(),
        namespace: daemon.namespace,
        ttrpc_address: daemon.ttrpc_address,
        debug: daemon.debug,
        upgrades: daemon.upgrades,
        listener: listener.try_clone().map_err(Error::Daemon)?,
        name: name.0.clone(),
        log,
        service: service.clone(),
        publisher: publisher.clone(),
        supervisor: Arc::clone(&supervisor),
    };
    let (sender, mut requests) = mpsc::channel(1);
    let trusted = Trusted::new(listener, connections.clone(), open).map_err(Error::Daemon)?;
    let mut server = Server::new()
        .add_listener(Listener::new(trusted))
        .register_service(services(&service))
        .register_service(daemon_service(&upgrade.status(), sender));
    // The server closes its connections when it is dropped.
    server.start().await?;
    if let (Some(operator), Some((manager, settings))) = (shim.operator, daemon.managed) {
        let service = service.clone();
        let publisher = publisher.clone();
        operator.serve(Serving { manager, settings, service, publisher, supervisor });
    }
    handover::unblock_signals().map_err(Error::Daemon)?;
    if daemon.upgrades > 0 {
        runtime.refill();
    }
    let retire = || upgrade.name.remove_unless_called(&upgrade.listener);
    let mut ended = std::pin::pin!(service.ended(retire));
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = signals.recv() => upgrade.attempt(None).await,
            Some(request) = requests.recv() => upgrade.attempt(Some(request)).await,
        }
    }
    // A `start` from here on forks a new daemon. The connections to this one are served until they
    // are closed.
    drop(name);
    drop(requests);
    tokio::join!(publisher.flush(EVENT_FLUSH_TIMEOUT), drain(&service, &connections));
    Ok(())
}

/// Opens the executables, so that this daemon executes their version from here on.
fn pin(engines: &Engines) {
    for engine in engines.iter() {
        for program in [&engine.host, &engine.compiler] {
            if let Err(error) = program.pin() {
                log::warn!("cannot open {}: {error}", program.path().display());
            }
        }
    }
}

impl Restored {
    /// The service and its connections.
    fn service(
        mut self,
        runtime: Arc<Runtime>,
        publisher: &Publisher,
        connections: Connections,
        lifetime: Lifetime,
    ) -> Result<(Service, Vec<RestoredConnection>)> {
        let count = self.service.containers();
        let from = &mut self.from;
        let restored =
            Service::restore(self.service, runtime, publisher, connections, lifetime, from)?;
        let waited = self.since.elapsed().unwrap_or_default().as_millis();
        log::info!("version {VERSION} runs now, with {count} containers; calls waited {waited} ms");
        Ok(restored)
    }
}

/// Waits until every request that was sent has been answered: until all clients have disconnected,
/// or no request has been in progress for a while.
async fn drain(service: &Service, connections: &Connections) {
    let quiet = async {
        loop {
            service.quiet().await;
            if tokio::time::timeout(QUIET_PERIOD, service.busy()).await.is_err() {
                return;
            }
        }
    };
    let disconnected = async {
        connections.closed().await;
        service.quiet().await;
    };
    let drained = async {
        tokio::select! {
            () = quiet => {}
            () = disconnected => {}
        }
    };
    if tokio::time::timeout(DISCONNECT_TIMEOUT, drained).await.is_err() {
        log::warn!("the shim ends with requests in progress for {DISCONNECT_TIMEOUT:?}");
    }
}
