//! The handover of a daemon to the installed version of its executable: the same process, with
//! everything that it has.
//!
//! The old version suspends its service and writes a [`Document`]. It executes the installed file
//! in another process with [`CHECK`], which reads the document. Only if that succeeds it executes
//! the same file in its own place, with [`HANDOVER`] and the document's descriptor as last
//! arguments. If any step fails, the old version continues.

mod command;
mod document;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wherry_supervisor::Supervisor;
use wherry_supervisor::settings::Settings;
use wherry_sys::handover::{self, Descriptor, Incoming, NotReady, Outgoing, ResumeError};
use wherry_sys::logger::ContainerLog;
use wherry_sys::socket::SocketName;
use wherry_sys::title;
use wherry_task::{
    DaemonStatus, NotSuspended, Publisher, Service, SuspendedService, UpgradeRequest,
};

use crate::Shim;
use crate::error::Result;
use crate::info::VERSION;
use crate::manage;
use crate::operator::{self, Manager};
use crate::serve::{self, Daemon, OwnName, Restored};
pub(crate) use command::upgrade;
use document::Document;
pub(crate) use document::DocumentError;

/// The argument with which the installed executable checks the document at standard input.
pub(crate) const CHECK: &str = "check-handover";
/// The last argument but one with which the installed executable continues. The last one is the
/// number of the document's descriptor.
pub(crate) const HANDOVER: &str = "handover";

/// How long the check may take. Requests wait meanwhile.
const CHECK_LIMIT: Duration = Duration::from_millis(1500);
/// The name of a process in the kernel, which execve sets to that of the descriptor.
const COMM: &str = "/proc/self/comm";

/// A daemon that can hand over.
pub(crate) struct Upgrade<'a> {
    pub(crate) shim: Shim,
    pub(crate) executable: PathBuf,
    pub(crate) title: Vec<String>,
    pub(crate) managed: Option<(Manager, operator::Settings)>,
    pub(crate) namespace: String,
    pub(crate) ttrpc_address: String,
    pub(crate) debug: bool,
    pub(crate) upgrades: u64,
    pub(crate) listener: UnixListener,
    pub(crate) name: SocketName,
    /// None if the log goes to standard error.
    pub(crate) log: Option<&'a ContainerLog>,
    pub(crate) service: Service,
    pub(crate) publisher: Publisher,
    pub(crate) supervisor: Arc<Supervisor>,
}

/// Why the old version continues.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotUpgraded {
    #[error("cannot open {}: {source}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} does not take over: {source}", .path.display())]
    Check { path: PathBuf, source: NotReady },
    #[error(transparent)]
    Suspend(#[from] NotSuspended),
    #[error("cannot write the state: {0}")]
    Write(#[source] io::Error),
    #[error("cannot execute {}: {source}", .path.display())]
    Execute { path: PathBuf, source: io::Error },
}

impl Upgrade<'_> {
    /// The daemon.
    pub(crate) fn status(&self) -> DaemonStatus {
        DaemonStatus {
            runtime: self.shim.name(),
            version: VERSION.to_owned(),
            pid: std::process::id(),
            namespace: self.namespace.clone(),
            upgrades: self.upgrades,
        }
    }

    /// Hands over to the installed executable, and answers the request if this daemon runs it
    /// already, or if that fails. Then this version continues.
    pub(crate) async fn attempt(&self, request: Option<UpgradeRequest>) {
        let result = self.try_to().await;
        match &result {
            Ok(()) => log::info!("no upgrade: the installed executables run already"),
            Err(error) => log::warn!("no upgrade: {error}"),
        }
        if let Some(request) = request {
            // The client may not wait any more.
            let _ = request.send(result.map_err(|error| error.to_string()));
        }
    }

    async fn try_to(&self) -> std::result::Result<(), NotUpgraded> {
        let path = || self.executable.clone();
        let opened = |source| NotUpgraded::Open { path: path(), source };
        let program = File::open(&self.executable).map_err(opened)?;
        if self.is_current(&program).map_err(opened)? {
            return Ok(());
        }
        let suspended = self.service.suspend(&self.publisher).await?;
        let since = SystemTime::now();
        // Nothing is awaited from here on.
        let mut out = Outgoing::default();
        let document = self.document(&suspended, since, &mut out)?;
        handover::check(&program, &[CHECK], &document, CHECK_LIMIT)
            .map_err(|source| NotUpgraded::Check { path: path(), source })?;
        let number = out.add(&document);
        let mut args = self.title.clone();
        args.extend([HANDOVER.to_owned(), number.to_string()]);
        let source = handover::execute(&program, &args, out.descriptors());
        Err(NotUpgraded::Execute { path: path(), source })
    }

    /// Whether this process runs `program`, and its children the installed executables.
    fn is_current(&self, program: &File) -> io::Result<bool> {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let own = identity(fs::metadata("/proc/self/exe")?);
        let mut engines = self.supervisor.engines.iter();
        Ok(own == identity(program.metadata()?)
            && engines.all(|engine| engine.host.is_current() && engine.compiler.is_current()))
    }

    fn document(
        &self,
        suspended: &SuspendedService,
        since: SystemTime,
        out: &mut Outgoing,
    ) -> std::result::Result<File, NotUpgraded> {
        let document = Document::new(self, suspended.save(out)?, since, out);
        let bytes = document.write(self.shim);
        bytes.and_then(|bytes| handover::write(&bytes)).map_err(NotUpgraded::Write)
    }
}

/// Checks whether this executable can continue from the document at standard input.
pub(crate) fn check(shim: Shim) -> Result<()> {
    let read = ResumeError::of("read the document");
    let bytes = io::stdin().as_fd().try_clone_to_owned();
    let bytes = bytes.and_then(|fd| handover::read(&File::from(fd))).map_err(read)?;
    Document::parse(shim, &bytes)?;
    // An error of the new version would come too late.
    shim.engines(&Settings::read())?;
    Ok(())
}

/// Continues as the daemon that has written the document, whose descriptor has this number.
pub(crate) fn resume(shim: Shim, number: Descriptor) -> Result<()> {
    let file = File::from(Incoming::adopt(&[number])?.take(number)?);
    let bytes = handover::read(&file).map_err(ResumeError::of("read the document"))?;
    let document = Document::parse(shim, &bytes)?;
    let mut from = Incoming::adopt(&document.descriptors)?;
    let saved = document.daemon;
    let log = match &saved.log {
        Some(log) => Some(ContainerLog::restore(log, &mut from)?),
        None => {
            manage::log_to_stderr()?;
            None
        }
    };
    saved.inherited.restore();
    // The arguments of this process are not used any more.
    title::replace_arguments(&saved.title.iter().map(String::as_str).collect::<Vec<_>>());
    if let Some(name) = saved.executable.file_name()
        && let Err(error) = fs::write(COMM, name.as_encoded_bytes())
    {
        log::warn!("cannot write {COMM}: {error}");
    }
    let limits = Settings::read();
    let engines = shim.engines(&limits)?;
    let daemon = Daemon {
        shim,
        listener: from.take(saved.listener)?.into(),
        name: OwnName(saved.name),
        engines,
        limits,
        executable: saved.executable,
        title: saved.title,
        managed: saved.managed,
        namespace: saved.namespace,
        ttrpc_address: saved.ttrpc_address,
        debug: saved.debug,
        upgrades: saved.upgrades + 1,
    };
    let restored = Restored { service: document.service, since: saved.since, from };
    serve::resume(daemon, log, restored)
}
