//! Bringing a container into being.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use wherry_image::Cache;
use wherry_sandbox::bundle::CgroupName;
use wherry_sandbox::cancel::Cancel;
use wherry_sandbox::cgroup::{self, Meter};
use wherry_sandbox::compiler::{Bounds, CompilerProgram};
use wherry_sandbox::hooks::{Batch, Moment};
use wherry_sandbox::launch::{Compile, Forked, Host, HostProgram, MakeCgroup, RunHooks, Service};
use wherry_sandbox::making::Making;
use wherry_sandbox::process::{Process, Reaper};
use wherry_sandbox::protocol::{Channel, CreateRequest, HostRequest};
use wherry_sandbox::stdio::{self, StdioError, StdioPaths, Streams};
use wherry_sandbox::terminal::Terminal;
use wherry_sandbox::{Bundle, Cgroup, Failure, FailureKind, Mount, cleanup};

use crate::EventSink;
use crate::code::{self, Order};

/// What a client wants of a container.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The mounts of its root filesystem.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub stdio: StdioPaths,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Whether systemd manages its cgroup.
    pub systemd_cgroup: bool,
    /// See [`CreateRequest::no_pivot`].
    pub no_pivot: bool,
    /// See [`CreateRequest::io_uid`].
    pub io_uid: u32,
    /// See [`CreateRequest::io_gid`].
    pub io_gid: u32,
    /// See [`CreateRequest::plugins`].
    pub plugins: PathBuf,
    /// See [`CreateRequest::no_engine_seccomp`].
    pub no_engine_seccomp: bool,
    /// Whether it is still wanted while it is created.
    pub cancel: Cancel,
}

/// What all containers of a daemon share.
pub struct Runtime {
    /// The engine host's executable.
    pub program: HostProgram,
    /// The compiler's.
    pub compiler: CompilerProgram,
    /// The cache of compiled code.
    pub cache: Cache,
    /// What a compilation may take.
    pub bounds: Bounds,
    /// Where children end.
    pub reaper: Reaper,
    /// Who hears of what happens.
    pub events: Arc<dyn EventSink>,
    /// An engine host that was started ahead of time.
    pub warm: Mutex<Option<Host>>,
}

/// A container as it was just created.
pub(crate) struct Newborn {
    pub(crate) process: Arc<Process>,
    pub(crate) guest: Channel,
    /// The hooks that are due when it runs.
    pub(crate) poststart: Batch,
    pub(crate) streams: Streams,
    pub(crate) bundle: Bundle,
    /// Of its cgroup. None: it ended before anybody could look.
    pub(crate) meter: Option<Meter>,
    /// Its mount namespace.
    pub(crate) mounts: Option<File>,
}

/// Creates a container, or leaves nothing behind, as when it is cancelled meanwhile. Blocks.
pub(crate) fn create(runtime: &Runtime, config: &Config) -> Result<Newborn, Failure> {
    // Once more: for a pod's next container, and where containerd took its time.
    cgroup::wait_early(&config.bundle);
    let bundle = Bundle::new(&config.bundle, &config.id);
    let (wanted, cgroup) = configuration(&bundle, config.systemd_cgroup)
        .map_err(|text| Failure::new(FailureKind::Invalid, text))?;
    let request = HostRequest::Create(CreateRequest {
        id: config.id.clone(),
        bundle: config.bundle.clone(),
        rootfs: config.rootfs.clone(),
        cwd: wanted.cwd(),
        terminal: config.terminal,
        systemd_cgroup: cgroup.systemd,
        no_pivot: config.no_pivot,
        io_uid: config.io_uid,
        io_gid: config.io_gid,
        plugins: config.plugins.clone(),
        no_engine_seccomp: config.no_engine_seccomp,
        module_max: runtime.bounds.module,
    });
    let mut hooks = |pid| {
        [Moment::Prestart, Moment::CreateRuntime].into_iter().try_for_each(|moment| {
            Batch::new(moment, &bundle, &wanted).run(Some(pid), Some(&runtime.reaper))
        })
    };
    let limits = wanted.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut make_cgroup = || cgroup::make(&cgroup.path, cgroup.systemd, limits);
    let order = Order {
        runtime,
        id: &config.id,
        rootfs: &config.rootfs,
        cgroup: &cgroup,
        memory: code::memory_limit(&wanted),
        cancel: &config.cancel,
    };
    let mut compile = |module: &File, key: &str, quick: Option<&str>, start: &[String]| {
        order.code(module, key, quick, start)
    };
    let streams = (&config.stdio, config.terminal);
    let forked =
        fork(runtime, &bundle, &request, streams, &mut compile, &mut hooks, &mut make_cgroup);
    // What was made for a Create that is not wanted any more goes as if it had failed.
    let made = if config.cancel.settle() { forked } else { Err(cancelled(&config.id)) };
    match made {
        Ok((forked, streams)) => Ok(Newborn {
            meter: Cgroup::of_process(&forked.process)
                .map(|found| Meter::new(found, !cgroup.systemd)),
            mounts: forked.process.look(|process| File::open(process.join("ns/mnt"))).ok(),
            process: Arc::new(forked.process),
            guest: forked.guest,
            poststart: Batch::new(Moment::Poststart, &bundle, &wanted),
            streams,
            bundle,
        }),
        Err(failure) => {
            for sentence in cleanup::container(&bundle, Some(&runtime.reaper)) {
                log::warn!("{}: {sentence}", config.id);
            }
            Err(failure)
        }
    }
}

fn cancelled(id: &str) -> Failure {
    let text = format!("the start of container {id} was cancelled by a Kill or Delete");
    Failure::new(FailureKind::System, text)
}

/// What the bundle says. What is wrong with it beyond that, the host finds.
fn configuration(
    bundle: &Bundle,
    systemd: bool,
) -> Result<(wherry_sandbox::config::Config, CgroupName), String> {
    let config = bundle.config().map_err(|error| error.to_string())?;
    let wrong = |text: String| format!("config.json: {text}");
    let cgroup = bundle.cgroup(&config, systemd).map_err(wrong)?;
    // The end of a container is the end of all that is in its cgroup: it must be its own.
    if bundle.is_used() {
        return Err(format!("{} is the bundle of another container", bundle.path().display()));
    }
    if cgroup::is_used(&cgroup.path, cgroup.systemd) {
        let path = cgroup.path.display();
        return Err(wrong(format!("linux.cgroupsPath: there are processes in {path} already")));
    }
    Ok((config, cgroup))
}

/// Has a process forked, with its streams. Blocks. Must be called within the runtime.
pub(crate) fn fork(
    runtime: &Runtime,
    bundle: &Bundle,
    request: &HostRequest,
    (stdio, terminal): (&StdioPaths, bool),
    compile: Compile<'_>,
    hooks: RunHooks<'_>,
    make_cgroup: MakeCgroup<'_>,
) -> Result<(Forked, Streams), Failure> {
    let system = |error: StdioError| Failure::new(FailureKind::System, error.to_string());
    let making = Making::begin(bundle)
        .map_err(|error| Failure::new(FailureKind::System, error.to_string()))?;
    let service = Service { reaper: &runtime.reaper, compile, hooks, make_cgroup };
    if terminal {
        let mut forked = host(runtime)?.fork(request, making, None, service)?;
        let console = forked
            .console
            .take()
            .ok_or_else(|| Failure::new(FailureKind::System, "the engine host sent no terminal"))?;
        let terminal = Terminal::start(console, stdio).map_err(system)?;
        return Ok((forked, Streams::Terminal(terminal)));
    }
    let (ends, kept) = stdio::open(stdio).map_err(system)?;
    let forked = host(runtime)?.fork(request, making, Some(ends), service)?;
    Ok((forked, Streams::Pipes(kept)))
}

/// The host that was started ahead of time, or a new one. It serves one container and ends, when
/// the guest exists, with the conversation: an idle host would cost memory for nothing.
fn host(runtime: &Runtime) -> Result<Host, Failure> {
    let warm = runtime.warm.lock().unwrap_or_else(PoisonError::into_inner).take();
    match warm {
        Some(host) => Ok(host),
        None => Host::spawn(&runtime.program).map_err(|error| {
            let path = runtime.program.path().display();
            Failure::new(FailureKind::System, format!("cannot run {path}: {error}"))
        }),
    }
}
