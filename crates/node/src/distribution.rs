//! The Kubernetes distributions, and the place of containerd's configuration in each.

use std::path::{Path, PathBuf};

use crate::root::HostRoot;

/// The distribution that runs containerd, which determines how to configure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// containerd as a separate service, as kubeadm and most clouds have it.
    Plain,
    K3s,
    Rke2,
    K0s,
    Microk8s,
}

impl Distribution {
    /// All distributions. Plain containerd is last: where the socket of another one exists, the
    /// node uses the containerd of that distribution.
    pub(crate) const ALL: [Distribution; 5] =
        [Self::Rke2, Self::K3s, Self::K0s, Self::Microk8s, Self::Plain];

    /// The name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "containerd",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::K0s => "k0s",
            Self::Microk8s => "microk8s",
        }
    }

    /// containerd's socket. k3s and rke2 share theirs.
    pub(crate) fn socket(self) -> &'static str {
        match self {
            Self::Plain => "/run/containerd/containerd.sock",
            Self::K3s | Self::Rke2 => "/run/k3s/containerd/containerd.sock",
            Self::K0s => "/run/k0s/containerd.sock",
            Self::Microk8s => "/var/snap/microk8s/common/run/containerd.sock",
        }
    }

    /// The file that containerd reads; where `template` names another one, the distribution writes
    /// this file.
    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Plain => "/etc/containerd/config.toml",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            Self::K0s => "/etc/k0s/containerd.toml",
            // The template is TOML; microk8s replaces `${…}` in it, in strings.
            Self::Microk8s => "/var/snap/microk8s/current/args/containerd-template.toml",
        }
    }

    /// Whether the distribution is on this host: its socket exists, and for rke2 its directory.
    pub(crate) fn is_on(self, root: &HostRoot) -> bool {
        let folder = Path::new(self.config()).parent().unwrap_or(Path::new("/"));
        root.exists(self.socket()) && (self == Self::Plain || root.exists(folder))
    }

    /// The systemd units that can run its containerd. The first that is active is the one to
    /// restart.
    pub(crate) fn units(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["containerd.service"],
            Self::K3s => &["k3s.service", "k3s-agent.service"],
            Self::Rke2 => &["rke2-server.service", "rke2-agent.service"],
            Self::K0s => &["k0sworker.service", "k0scontroller.service"],
            Self::Microk8s => &["snap.microk8s.daemon-containerd.service"],
        }
    }

    /// Whether `containerd config dump` prints the configuration that the node's containerd reads.
    /// False where the distribution writes the configuration when it starts.
    pub(crate) fn can_dump(self) -> bool {
        self == Self::Plain
    }

    /// Whether runtimes must be named by path. k3s and rke2 add a runtime by themselves for each
    /// shim of a known name that is in /usr/local/bin, /usr/bin or /usr/sbin, and two tables of one
    /// name are invalid. The PATH of the other distributions' containerd is unknown.
    pub(crate) fn wants_path(self) -> bool {
        self != Self::Plain
    }

    /// The folder of k0s' own drop-ins, which it merges into its configuration.
    pub(crate) fn drop_ins(self) -> Option<PathBuf> {
        (self == Self::K0s).then(|| "/etc/k0s/containerd.d".into())
    }

    /// The templates of k3s and rke2, by the version of the format. The one of version 3 wins if
    /// both exist.
    pub(crate) fn template(self, version: i64) -> Option<PathBuf> {
        let name = if version >= 3 { "config-v3.toml.tmpl" } else { "config.toml.tmpl" };
        matches!(self, Self::K3s | Self::Rke2)
            .then(|| Path::new(self.config()).with_file_name(name))
    }
}
