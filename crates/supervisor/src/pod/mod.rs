//! A pod whose namespaces this daemon creates, instead of a pause container.
//!
//! The containers of a pod join its namespaces through `/proc/PID/ns`, where PID is the pid that
//! the daemon reports for the pod. A thread of the daemon holds them ([`thread`]): its id is a
//! valid PID there. A pid namespace needs a process as its init, and a thread cannot leave the user
//! namespace of its process, so pods with one of the two get a small process instead ([`init`]).
//!
//! Files that all containers of the pod share are in the pod's bundle: `/etc/hostname`,
//! `/etc/hosts`, `/etc/resolv.conf` and the tmpfs of `/dev/shm`. The engine host mounts them. The
//! bundle also lists the containers ([`members`]).

pub mod init;
pub mod members;
mod namespaces;
mod thread;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::gethostname;
use wherry_bundle::Bundle;
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::process::{Process, SignalError};
use wherry_sys::reaper::Reaper;

use crate::cleanup;
pub use namespaces::{EnterError, PodNamespaces};

/// The size of the pod's `/dev/shm`, bytes: that of containerd's pods.
const SHM_SIZE: u64 = 64 << 20;

/// The pod that a client requests.
#[derive(Debug, Clone)]
pub struct PodConfig {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The content of `/etc/resolv.conf`; without one, the host's file.
    pub resolv_conf: Option<String>,
    /// Its namespaces.
    pub namespaces: PodNamespaces,
    /// The cgroup above those of its containers, if the client names one.
    pub cgroup_parent: Option<PathBuf>,
}

/// The holder of the namespaces of a pod.
#[derive(Debug)]
pub enum Holder {
    /// A thread of this process.
    Thread(thread::HolderThread),
    /// The init process of the pod.
    Init(init::InitProcess),
}

/// Why a pod cannot be created.
#[derive(Debug, thiserror::Error)]
enum PodError {
    #[error("{} is the bundle of another pod", .0.display())]
    Used(PathBuf),
    #[error("cannot create {}: {source}", .path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot copy {} for the pod: {source}", .path.display())]
    Copy { path: PathBuf, source: io::Error },
    #[error("cannot read the host's name: {0}")]
    Hostname(nix::Error),
    #[error("cannot mount the pod's /dev/shm: {0}")]
    Shm(nix::Error),
    #[error("cannot create the pod's namespaces: {0}")]
    Namespaces(#[from] EnterError),
    #[error("cannot run the pod's init process: {0}")]
    Init(#[from] init::InitError),
}

impl From<PodError> for Failure {
    fn from(error: PodError) -> Failure {
        let kind = match error {
            PodError::Used(_) => FailureKind::Invalid,
            _ => FailureKind::System,
        };
        Failure::new(kind, error.to_string())
    }
}

/// Creates the files of a pod. Removes them all if one cannot be created. Blocks.
///
/// # Errors
/// With the reason that the user should read.
pub fn create(config: &PodConfig) -> Result<(), Failure> {
    let bundle = Bundle::new(&config.bundle, &config.id);
    if bundle.is_used() {
        return Err(PodError::Used(config.bundle.clone()).into());
    }
    create_files(&bundle, config).map_err(|error| {
        remove(&bundle);
        error.into()
    })
}

fn create_files(bundle: &Bundle, config: &PodConfig) -> Result<(), PodError> {
    let files = bundle.pod_files();
    fs::create_dir_all(&files)
        .map_err(|source| PodError::Create { path: files.clone(), source })?;
    let hostname = match &config.namespaces.hostname {
        Some(name) => name.clone(),
        None => gethostname().map_err(PodError::Hostname)?.to_string_lossy().into_owned(),
    };
    write(&files.join("hostname"), &format!("{hostname}\n"))?;
    copy(Path::new("/etc/hosts"), &files.join("hosts"))?;
    let resolv_conf = files.join("resolv.conf");
    match &config.resolv_conf {
        Some(text) => write(&resolv_conf, text)?,
        None => copy(Path::new("/etc/resolv.conf"), &resolv_conf)?,
    }
    if config.namespaces.ipc {
        mount_shm(&bundle.pod_shm())?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), PodError> {
    fs::write(path, text).map_err(|source| PodError::Create { path: path.to_owned(), source })
}

/// Copies a file of the host. A host without it gives the pod an empty one.
fn copy(from: &Path, to: &Path) -> Result<(), PodError> {
    match fs::read_to_string(from) {
        Ok(text) => write(to, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(to, ""),
        Err(source) => Err(PodError::Copy { path: from.to_owned(), source }),
    }
}

fn mount_shm(path: &Path) -> Result<(), PodError> {
    fs::create_dir_all(path)
        .map_err(|source| PodError::Create { path: path.to_owned(), source })?;
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode=1777,size={SHM_SIZE}");
    mount(Some("shm"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(PodError::Shm)
}

/// Creates the namespaces of a pod, which exist until the result is released and the last container
/// in them has ended. Blocks.
///
/// # Errors
/// With the reason that the user should read.
pub fn hold(config: &PodConfig, reaper: &Reaper) -> Result<Holder, Failure> {
    let namespaces = &config.namespaces;
    let held = if namespaces.pid || namespaces.user {
        init::spawn(namespaces, reaper).map(Holder::Init).map_err(PodError::from)
    } else {
        thread::spawn(namespaces.clone()).map(Holder::Thread).map_err(PodError::from)
    };
    Ok(held?)
}

impl Holder {
    /// The pid in whose `/proc` directory the namespaces are.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self {
            Holder::Thread(thread) => thread.id(),
            Holder::Init(init) => init.process().pid(),
        }
    }

    /// The init process, if the pod has one.
    #[must_use]
    pub fn init(&self) -> Option<&Process> {
        match self {
            Holder::Thread(_) => None,
            Holder::Init(init) => Some(init.process()),
        }
    }

    /// Releases the namespaces. Ends the init process, with which every process in a shared pid
    /// namespace ends.
    pub fn release(self) {
        if let Some(process) = self.init() {
            match process.signal(libc::SIGKILL.unsigned_abs()) {
                Ok(()) | Err(SignalError::Gone) => {}
                Err(error) => log::warn!("cannot end the pod's init process: {error}"),
            }
        }
    }
}

/// Removes the files of a pod. Logs what could not be removed.
pub fn remove(bundle: &Bundle) {
    for error in cleanup::container(bundle, None, None) {
        log::error!("{}: {error}", bundle.id());
    }
}
