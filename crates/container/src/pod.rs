//! A pod that this daemon creates: its state, and the only code that changes it.
//!
//! ```text
//!            Start           Stop, or the end of the init process
//!  Created ─────────▶ Ready ─────────▶ Stopped
//!     │                                   ▲
//!     └───────────────────────────────────┘ Stop
//! ```
//!
//! Queries read a snapshot; Start and Stop wait for each other.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, watch};
use wherry_bundle::Bundle;
use wherry_supervisor::pod::{self, Holder, PodConfig};
use wherry_sys::process::Exit;
use wherry_sys::reaper::Reaper;

use crate::actor;
use crate::handle::Error;

/// The state of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// Its files exist, its namespaces do not.
    Created,
    /// Containers may join its namespaces through the `/proc` directory of this pid.
    Ready(i32),
    /// Its namespaces are released.
    Stopped(Exit),
}

/// A pod is in another state than the request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot start a {} pod", .0.name())]
pub struct PodRefused(PodState);

impl PodState {
    /// Its name in an error.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PodState::Created => "created",
            PodState::Ready(_) => "ready",
            PodState::Stopped(_) => "stopped",
        }
    }
}

/// A pod. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: PodConfig,
    reaper: Reaper,
    created_at: SystemTime,
    state: Arc<watch::Sender<PodState>>,
    /// Held during each change.
    holder: Mutex<Option<Holder>>,
}

impl Pod {
    /// Creates the files of a pod.
    ///
    /// # Errors
    /// [`Error::Failure`]; then everything of the pod was removed.
    pub async fn create(config: PodConfig, reaper: Reaper) -> Result<Pod, Error> {
        let files = config.clone();
        actor::blocking(move || pod::create(&files)).await?;
        Ok(Pod(Arc::new(Inner {
            config,
            reaper,
            created_at: SystemTime::now(),
            state: Arc::new(watch::Sender::new(PodState::Created)),
            holder: Mutex::new(None),
        })))
    }

    /// The pod that was requested.
    #[must_use]
    pub fn config(&self) -> &PodConfig {
        &self.0.config
    }

    /// When its files were created.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.0.created_at
    }

    /// Its state at this moment.
    #[must_use]
    pub fn state(&self) -> PodState {
        *self.0.state.borrow()
    }

    /// The pid in whose `/proc` directory its namespaces are; 0 unless it is ready.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self.state() {
            PodState::Ready(pid) => pid,
            PodState::Created | PodState::Stopped(_) => 0,
        }
    }

    /// Whether its files are gone: containerd has cleaned up after it with the `delete` command.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        !self.bundle().is_pod()
    }

    /// Creates its namespaces, and returns the pid in whose `/proc` directory they are.
    ///
    /// # Errors
    /// [`Error::Pod`] unless it is created; [`Error::Failure`].
    pub async fn start(&self) -> Result<i32, Error> {
        let mut held = self.0.holder.lock().await;
        let state = self.state();
        if state != PodState::Created {
            return Err(PodRefused(state).into());
        }
        let (config, reaper) = (self.0.config.clone(), self.0.reaper.clone());
        let holder = actor::blocking(move || pod::hold(&config, &reaper)).await?;
        let pid = holder.pid();
        self.0.state.send_replace(PodState::Ready(pid));
        if holder.init().is_some() {
            let state = Arc::clone(&self.0.state);
            self.0.reaper.on_exit(pid, move |exit| stopped(&state, exit));
        }
        *held = Some(holder);
        Ok(pid)
    }

    /// Releases its namespaces. Does nothing if it has stopped.
    pub async fn stop(&self) {
        let mut held = self.0.holder.lock().await;
        if let Some(holder) = held.take() {
            holder.release();
        }
        stopped(&self.0.state, Exit::now(0));
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// [`Error::Gone`] if the daemon ends first.
    pub async fn wait(&self) -> Result<Exit, Error> {
        let mut states = self.0.state.subscribe();
        let state = states.wait_for(|state| matches!(state, PodState::Stopped(_))).await;
        match state.map(|state| *state) {
            Ok(PodState::Stopped(exit)) => Ok(exit),
            _ => Err(Error::Gone),
        }
    }

    /// Stops it, and removes its files.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub async fn remove(&self) -> Result<(), Error> {
        self.stop().await;
        let bundle = self.bundle();
        actor::blocking(move || {
            pod::remove(&bundle);
            Ok::<_, Error>(())
        })
        .await
    }

    /// Its bundle.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        Bundle::new(&self.0.config.bundle, &self.0.config.id)
    }
}

/// Records the end of a pod, unless one is recorded already.
fn stopped(state: &watch::Sender<PodState>, exit: Exit) {
    state.send_if_modified(|state| {
        let first = !matches!(state, PodState::Stopped(_));
        if first {
            *state = PodState::Stopped(exit);
        }
        first
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_supervisor::pod::PodNamespaces;

    #[tokio::test]
    async fn a_pod_goes_from_created_to_ready_to_stopped_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let config = PodConfig {
            id: "pod".to_owned(),
            bundle: directory.path().to_owned(),
            resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
            namespaces: PodNamespaces::default(),
            cgroup_parent: None,
        };
        let pod = Pod::create(config.clone(), Reaper::default()).await.unwrap();
        assert_eq!((pod.state(), pod.pid()), (PodState::Created, 0));
        let text = std::fs::read_to_string(pod.bundle().pod_files().join("resolv.conf")).unwrap();
        assert_eq!(text, "nameserver 192.0.2.1\n");
        let again = Pod::create(config, Reaper::default()).await.unwrap_err().to_string();
        assert!(again.ends_with("is the bundle of another pod"), "{again}");

        let pid = pod.start().await.unwrap();
        assert!(pid > 0 && pod.pid() == pid);
        assert_eq!(pod.start().await.unwrap_err().to_string(), "cannot start a ready pod");

        pod.remove().await.unwrap();
        let exit = pod.wait().await.unwrap();
        assert_eq!((pod.state(), exit.status), (PodState::Stopped(exit), 0));
        assert_eq!(pod.start().await.unwrap_err().to_string(), "cannot start a stopped pod");
        assert!(pod.is_removed());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
