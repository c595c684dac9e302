//! The interface to the part of a manager that its operator uses: settings, metrics, systemd.
//!
//! A crate above this one implements it, and only managers' executables link that crate. In the
//! daemon of a single container its code would have no use, and its relocated data take memory.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use serde::{Deserialize, Serialize};
use wherry_supervisor::Supervisor;
use wherry_task::{Publisher, Service};

/// An error of an [`Operator`]: one sentence.
pub type OperatorError = Box<dyn std::error::Error + Send + Sync>;

/// The part of a manager that its operator uses.
pub trait Operator: fmt::Debug + Sync {
    /// Reads the settings of a manager that is about to start.
    ///
    /// # Errors
    /// If they are invalid.
    fn settings(&self) -> Result<Settings, OperatorError>;

    /// Has systemd run a manager ([`crate::group`] has its socket), and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    fn launch(&self, manager: &Manager) -> Result<(), OperatorError>;

    /// Serves the operator while the manager serves its clients. Is called within the runtime, once
    /// the manager answers requests.
    fn serve(&self, serving: Serving);

    /// The operator's commands, for `-help`.
    fn usage(&self) -> &'static str;
}

/// The settings of a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long it stays without a container and without a new connection.
    pub idle: Duration,
    /// How many engine hosts it keeps ready.
    pub spare_hosts: usize,
    /// How long they stay without a use.
    pub spare_idle: Duration,
    /// The least severe messages that it logs, unless containerd asks for debug messages.
    #[serde(with = "level")]
    pub log_level: LevelFilter,
    /// Where it serves metrics.
    pub metrics: Metrics,
    /// Whether systemd runs it.
    pub systemd: bool,
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metrics {
    /// Nowhere: nothing is measured.
    Off,
    /// On the manager's control socket.
    ControlSocket,
    /// There, and at this address of the machine itself.
    Loopback(std::net::SocketAddr),
}

/// The identity of a manager, and the addresses of its containerd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// The runtime, as in `io.containerd.<name>.v1`.
    pub runtime: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// containerd's ttrpc socket, which takes events.
    pub ttrpc_address: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The manager's socket.
    pub socket: PathBuf,
    /// Whether containerd asks for debug messages.
    pub debug: bool,
}

/// A manager that serves.
#[derive(Clone)]
pub struct Serving {
    /// Its identity.
    pub manager: Manager,
    /// Its settings.
    pub settings: Settings,
    /// Its containers.
    pub service: Service,
    /// Its events.
    pub publisher: Publisher,
    /// Its engine hosts.
    pub supervisor: Arc<Supervisor>,
}

/// A level of the log in the document of a handover: its name.
mod level {
    use log::LevelFilter;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        level: &LevelFilter,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(level.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<LevelFilter, D::Error> {
        <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
