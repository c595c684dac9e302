//! The daemon: serves the Task API for one container, or for one pod.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;
use wherry_bundle::Bundle;
use wherry_container::Runtime;
use wherry_supervisor::compiler::CompilerProgram;
use wherry_supervisor::launch::{Host, HostProgram};
use wherry_supervisor::{SpareHost, Supervisor};
use wherry_sys::reaper::Reaper;
use wherry_sys::socket::SocketName;
use wherry_sys::{daemon, memory, readonly};
use wherry_task::{Publisher, Service, services};

use crate::config::Config;
use crate::peer::Trusted;

/// What the daemon begins with.
pub(crate) struct Daemon {
    pub(crate) engine: &'static str,
    pub(crate) listener: UnixListener,
    pub(crate) name: OwnName,
    pub(crate) program: HostProgram,
    pub(crate) namespace: String,
    pub(crate) bundle: PathBuf,
    pub(crate) shim_cgroup: String,
    pub(crate) debug: bool,
}

/// The last events are told before the daemon ends, unless containerd takes longer than this.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The answer to Shutdown is sent before the daemon ends, unless that takes longer than this.
const LAST_ANSWER: Duration = Duration::from_millis(200);
/// A daemon that nobody gives a container to is one that containerd has lost.
const ABANDONED: Duration = Duration::from_secs(120);

/// Serves until the last container is deleted and containerd says so, then ends the process.
pub(crate) fn serve(daemon: Daemon) -> ! {
    memory::share_one_heap();
    if daemon.shim_cgroup.is_empty() {
        let bundle = Bundle::new(&daemon.bundle, "");
        wherry_cgroup::start_grace_period(move || {
            let path = bundle.config().ok().and_then(|config| config.cgroups_path());
            path.is_some_and(|path| wherry_cgroup::is_systemd_path(&path))
        });
    }
    let logged = wherry_sys::logger::log_to_pipe(&daemon.bundle.join("log"), daemon.debug);
    // A bundle without a log is no reason to refuse its container.
    drop(logged);
    // The host loads its engine while containerd connects.
    let warm = Host::spawn(&daemon.program);
    daemon::protect_from_oom();
    daemon::ignore_terminal_signals();
    if !daemon.shim_cgroup.is_empty() {
        daemon::join_cgroup(&daemon.shim_cgroup);
    }
    if let Err(error) = &warm {
        log::error!("cannot run {}: {error}", daemon.program.path().display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let result = runtime.block_on(run(daemon, warm.ok()));
        // A compiler for a container that is gone is not waited for: it ends with this process.
        runtime.shutdown_background();
        result.map_err(|error| error.to_string())
    }) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("the shim ends: {error}");
            1
        }
    };
    std::process::exit(code)
}

/// The name of the daemon's own socket, which goes with this.
pub(crate) struct OwnName(pub(crate) SocketName);

impl Drop for OwnName {
    fn drop(&mut self) {
        self.0.remove();
    }
}

async fn run(daemon: Daemon, warm: Option<Host>) -> Result<(), ttrpc::Error> {
    let others = |error: std::io::Error| ttrpc::Error::Others(error.to_string());
    let name = daemon.name;
    let reaper = Reaper::default();
    wherry_container::reap_children(reaper.clone()).map_err(others)?;
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let publisher = Publisher::start(&address, &daemon.namespace);
    let config = Config::read();
    for complaint in &config.complaints {
        log::warn!("{complaint}");
    }
    let supervisor = Supervisor {
        compiler: CompilerProgram::beside(&daemon.program, daemon.engine),
        host: daemon.program,
        // Guests get the files.
        cache: config.cache(daemon.engine).reading_through(readonly::view),
        bounds: config.bounds,
        reaper,
        spare: SpareHost::new(warm),
    };
    let service = Service::new(Arc::new(Runtime {
        supervisor: Arc::new(supervisor),
        events: Arc::new(publisher.clone()),
    }));
    let listener = Listener::new(Trusted::new(daemon.listener).map_err(others)?);
    let mut server = Server::new().add_listener(listener).register_service(services(&service));
    server.start().await?;
    tokio::select! {
        () = service.ended() => {}
        () = abandoned(&service) => log::warn!("no container came: the shim ends"),
    }
    // Before a client sees the end: the name may be another's as soon as our connections are closed.
    drop(name);
    publisher.flush(LAST_WORDS).await;
    let _ = tokio::time::timeout(LAST_ANSWER, server.shutdown()).await;
    Ok(())
}

/// Waits until it is clear that no container will come; for ever, once one has.
async fn abandoned(service: &Service) {
    tokio::time::sleep(ABANDONED).await;
    if service.was_used() {
        std::future::pending::<()>().await;
    }
}
