//! The errors of this program. Each names the path or object at fault.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{path}: {doing} failed: {source}", path = path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}: more than 40 symbolic links", path = .0.display())]
    Links(PathBuf),
    #[error(
        "no containerd found: none of these sockets exists: {0}; start containerd, or name its socket with --address"
    )]
    NoContainerd(String),
    #[error(
        "containerd's executable was not found, so its configuration cannot be checked; --containerd names it"
    )]
    NoExecutable,
    #[error(
        "no configuration file of {0} can get the runtimes; docs/kubernetes.md lists those that can"
    )]
    NoFile(&'static str),
    #[error("{path}: {source}", path = path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error(
        "{path}: containerd would not accept the new configuration, so the old one is back in place: {reason}",
        path = path.display()
    )]
    Refused { path: PathBuf, reason: String },
    #[error(
        "{path}: with the new configuration `containerd config dump` {reason}, so the old one is back in place; \
         add the runtime's table by hand, docs/kubernetes.md shows it",
        path = path.display()
    )]
    Lossy { path: PathBuf, reason: String },
    #[error("containerd at {address}: {doing} failed: {reason}", address = address.display())]
    Cri { address: PathBuf, doing: &'static str, reason: String },
    #[error(
        "containerd at {address} does not serve CRI ({reason}): the kubelet could not use it either; remove \"cri\" \
         from `disabled_plugins` in {config} and restart containerd",
        address = address.display(), config = config.display()
    )]
    CriDisabled { address: PathBuf, config: PathBuf, reason: String },
    #[error("`{program}` failed: {reason}")]
    Program { program: String, reason: String },
    #[error("containerd's version {0:?} is not understood: expected a text like 1.7.24")]
    Version(String),
    #[error(
        "containerd {0} cannot leave pods to a shim: up to 2.2 it crashes when such a pod has the host's network; \
         use containerd 2.3 or newer, or --sandboxer podsandbox"
    )]
    Sandboxer(String),
    #[error("containerd {0} is too old: 1.6 is the oldest that Wherry supports")]
    TooOld(String),
    #[error(
        "no engine to install in {from}: an engine is a file containerd-shim-ENGINE-v1 with wherry-ENGINE-host and \
         wherry-ENGINE beside it; --from names another directory",
        from = .0.display()
    )]
    NoEngines(PathBuf),
    #[error(
        "the runtime wherry runs nothing alone: name an engine too, as in --engines wasmtime,wherry"
    )]
    NoEngineBesideAll,
    #[error("engine {engine}: {path} is missing", path = path.display())]
    Incomplete { engine: String, path: PathBuf },
    #[error("engine {0:?} is not among those that can be installed: {1}")]
    UnknownEngine(String, String),
    #[error("no directory for the executables: {0}; --bin-dir names another one")]
    NoBinDir(String),
    #[error("{path} does not run on this host: {reason}", path = path.display())]
    DoesNotRun { path: PathBuf, reason: String },
    #[error("systemd: {doing} failed: {reason}")]
    Systemd { doing: String, reason: String },
    #[error(
        "containerd must be restarted, and neither systemd's bus is reachable ({reason}) nor --restart-command given: \
         restart containerd, then run this command again"
    )]
    NoRestart { reason: String },
    #[error(
        "{path} cannot be written ({reason}) and containerd reads no other file: make it writable, or add the \
         runtime's table to the image of this machine, docs/kubernetes.md shows it",
        path = path.display()
    )]
    ReadOnly { path: PathBuf, reason: io::Error },
    #[error(
        "after the restart containerd did not list the runtimes within {seconds} s ({reason}); {outcome}; \
         containerd's log has more: journalctl -u {unit}"
    )]
    NotListed { seconds: u64, reason: String, outcome: String, unit: String },
    #[error("pods still use the runtimes: {0}; delete them first, or pass --force")]
    InUse(String),
    #[error("{path}: {source}", path = path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("Kubernetes API: {doing} failed: {reason}")]
    Kubernetes { doing: String, reason: String },
    #[error("invalid name of a registry {0:?}: expected HOST or HOST:PORT")]
    Registry(String),
    #[error(
        "{path}: another program wrote it, so it is left alone: add the mirror to it by hand, docs/images.md shows it",
        path = .0.display()
    )]
    Hosts(PathBuf),
    #[error(transparent)]
    Mirror(#[from] wherry_mirror::MirrorError),
    #[error("{0}")]
    Test(String),
}

impl NodeError {
    /// For `map_err`: the action that failed, and its file.
    pub(crate) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> NodeError {
        let path = path.into();
        move |source| NodeError::File { doing, path, source }
    }
}
