//! The daemon: serves the Task API for one container, for one pod or, as the manager, for all
//! containers of a containerd's namespace.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;
use wherry_container::Runtime;
use wherry_supervisor::launch::Host;
use wherry_supervisor::settings::Settings;
use wherry_supervisor::{Program, SpareHosts, Supervisor};
use wherry_sys::logger::{self, ContainerLog};
use wherry_sys::reaper::Reaper;
use wherry_sys::socket::SocketName;
use wherry_sys::{daemon, memory, readonly};
use wherry_task::{Connections, Lifetime, Publisher, Service, services};

use crate::Shim;
use crate::error::{Error, Result};
use crate::group::Sharing;
use crate::operator::{self, Manager, Serving};
use crate::peer::Trusted;

/// The parameters that `start` passes to the daemon.
pub(crate) struct Daemon {
    pub(crate) shim: Shim,
    pub(crate) listener: UnixListener,
    pub(crate) name: OwnName,
    pub(crate) program: Program,
    /// The identity and the settings of a manager.
    pub(crate) managed: Option<(Manager, operator::Settings)>,
    pub(crate) namespace: String,
    /// The first container and its bundle. None if systemd started the daemon.
    pub(crate) first: Option<(String, PathBuf)>,
    /// Whether that is the bundle of a pod sandbox.
    pub(crate) is_pod: bool,
    /// Whether the path of the first container's cgroup has the form of systemd's driver.
    pub(crate) by_systemd: bool,
    /// containerd's ttrpc socket, which takes events.
    pub(crate) ttrpc_address: String,
    pub(crate) shim_cgroup: String,
    pub(crate) debug: bool,
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

/// Serves until the service ends, then exits.
pub(crate) fn serve(daemon: Daemon) -> ! {
    memory::share_one_heap();
    if daemon.shim_cgroup.is_empty() && daemon.by_systemd {
        wherry_cgroup::start_grace_period();
    }
    logger::start(log_level(&daemon));
    // Create opens each container's log, this one's too.
    let first = daemon.first.as_ref();
    let log = first.map(|(id, bundle)| ContainerLog::open(id, &bundle.join("log")));
    if daemon.shim.sharing == Sharing::Manager
        && let Err(error) = daemon::raise_descriptor_limit()
    {
        log::warn!("cannot raise the shim's limit on descriptors: {error}");
    }
    // Before the runtime: the host loads its engine while containerd connects. That of a pod starts
    // with the pod, because containerd waits for the pod alone.
    let spare = (!daemon.is_pod).then(|| Host::spawn(&daemon.program));
    if let Err(error) = daemon::raise_oom_score_adj() {
        log::warn!("cannot raise the shim's oom_score_adj: {error}");
    }
    daemon::ignore_terminal_signals();
    join_shim_cgroup(&daemon);
    let spare = spare.and_then(|host| {
        let failed = |error| log::error!("cannot run {}: {error}", daemon.program.path().display());
        host.map_err(failed).ok()
    });
    let result = run_on_this_thread(daemon, spare);
    if let Err(error) = &result {
        log::error!("the shim ends: {error}");
    }
    drop(log);
    std::process::exit(i32::from(result.is_err()))
}

/// The level of the log: containerd's, or that of a manager's settings, which containerd may raise.
fn log_level(daemon: &Daemon) -> LevelFilter {
    let set = daemon.managed.as_ref().map_or(LevelFilter::Info, |(_, set)| set.log_level);
    if daemon.debug { set.max(LevelFilter::Debug) } else { set }
}

/// Moves this process to the cgroup that the options of the first container name. The manager stays
/// where it is: the options of one container are not for the daemon of all.
fn join_shim_cgroup(daemon: &Daemon) {
    if daemon.shim_cgroup.is_empty() {
        return;
    }
    if daemon.shim.sharing == Sharing::Manager {
        log::warn!("ignored the runtime option ShimCgroup: the shim serves all containers");
    } else if let Err(error) = wherry_cgroup::create_and_join(Path::new(&daemon.shim_cgroup)) {
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

fn run_on_this_thread(daemon: Daemon, spare: Option<Host>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Daemon)?;
    let result = runtime.block_on(run(daemon, spare));
    // Without waiting for a compiler whose container is gone: it ends with this process.
    runtime.shutdown_background();
    result
}

async fn run(daemon: Daemon, spare: Option<Host>) -> Result<()> {
    let name = daemon.name;
    let reaper = Reaper::default();
    wherry_container::reap_children(reaper.clone()).map_err(Error::Daemon)?;
    let publisher = Publisher::start(&daemon.ttrpc_address, &daemon.namespace);
    let config = Settings::read();
    let shim = daemon.shim;
    // The daemon of a group has used the only host that it needs.
    let (lifetime, spare_hosts) = match &daemon.managed {
        None => (Lifetime::Group, 0),
        Some((_, set)) => (Lifetime::Manager { idle: set.idle }, set.spare_hosts),
    };
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let compiler = daemon.program.compiler(shim.engine);
    if let Err(error) = compiler.pin() {
        log::warn!("cannot open {}: {error}", compiler.path().display());
    }
    let connections = Connections::default();
    let supervisor = Supervisor {
        compiler,
        host: daemon.program,
        // Guests get descriptors of these files.
        cache: config.cache(shim.engine).reading_through(readonly::view),
        bounds: config.bounds,
        reaper,
        spare: SpareHosts::new(spare, spare_hosts),
    };
    let supervisor = Arc::new(supervisor);
    let runtime = Runtime { supervisor: supervisor.clone(), events: Arc::new(publisher.clone()) };
    let service = Service::new(Arc::new(runtime), connections.clone(), lifetime);
    let listener = daemon.listener.try_clone().map_err(Error::Daemon)?;
    // The server closes its connections when it is dropped.
    let _server = start_server(daemon.listener, &service, &connections).await?;
    if let (Some(operator), Some((manager, settings))) = (shim.operator, daemon.managed) {
        let (service, publisher) = (service.clone(), publisher.clone());
        operator.serve(Serving { manager, settings, service, publisher, supervisor });
    }
    service.ended(|| name.0.remove_unless_called(&listener)).await;
    // A `start` from here on forks a new daemon. The connections to this one are served until they
    // are closed.
    drop(name);
    tokio::join!(publisher.flush(EVENT_FLUSH_TIMEOUT), drain(&service, &connections));
    Ok(())
}

/// Starts to serve the Task API on a listener.
async fn start_server(
    listener: UnixListener,
    service: &Service,
    connections: &Connections,
) -> Result<Server> {
    let trusted = Trusted::new(listener, connections.clone()).map_err(Error::Daemon)?;
    let mut server =
        Server::new().add_listener(Listener::new(trusted)).register_service(services(service));
    server.start().await?;
    Ok(server)
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
