//! The containers and pods of this daemon, by id, and whether the daemon still accepts more.
//!
//! An id is reserved from the start of its Create. The pods are those that the daemon makes itself,
//! by the Sandbox API: the daemon of a group serves one, a manager many. The lock is held for a
//! look-up and never across an await.
//!
//! The registry closes when it is empty and either Shutdown was requested or the idle timeout
//! ([`crate::lifecycle`]) has passed. Both are decided under the lock of the ids, so that no Create
//! can start in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use wherry_bundle::Bundle;
use wherry_container::{Container, Pod, State};
use wherry_supervisor::Cancel;
use wherry_sys::handover::Outgoing;
use wherry_sys::logger::{ContainerLog, SavedLog};

use crate::census::Census;
use crate::error::{Error, Result};

pub(crate) struct Registry {
    slots: Mutex<Slots>,
    /// Signalled after each change of the slots.
    changed: watch::Sender<()>,
}

struct Slots {
    by_id: HashMap<String, Slot>,
    pods: HashMap<String, PodSlot>,
    /// Shutdown was requested while an id was taken. A Create that succeeds withdraws it: Shutdown
    /// follows the Delete of that container too.
    shutdown_requested: bool,
    /// No id can be reserved any more.
    closed: bool,
    /// Whether an id has ever been reserved.
    used: bool,
    /// When the last id was released, or the registry made.
    empty_since: Instant,
    /// The registry came along in a handover.
    restored: bool,
}

struct Slot {
    phase: Phase,
    /// Open as long as the id is taken.
    log: ContainerLog,
}

/// The registry in the document of a handover, without its containers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedRegistry {
    shutdown_requested: bool,
    used: bool,
}

enum Phase {
    /// Create is in progress; this cancels it.
    Creating(Cancel),
    Created(Container),
}

/// A pod of the daemon.
enum PodSlot {
    /// CreateSandbox is in progress.
    Creating,
    Created(Pod),
}

impl Slot {
    /// The state of its container. None while Create is in progress.
    fn state(&self) -> Option<State> {
        match &self.phase {
            Phase::Creating(_) => None,
            Phase::Created(container) => Some(container.snapshot().state),
        }
    }
}

impl PodSlot {
    fn created(&self) -> Option<&Pod> {
        match self {
            PodSlot::Created(pod) => Some(pod),
            PodSlot::Creating => None,
        }
    }
}

impl Slots {
    fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.pods.is_empty()
    }
}

/// A reserved id of a pod. Dropping this releases it, unless [`ReservedPod::fill`] was called.
pub(crate) struct ReservedPod<'a> {
    registry: &'a Registry,
    id: String,
    filled: bool,
}

/// A reserved id. Dropping this releases the id, unless [`Reserved::fill`] was called.
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    id: String,
    cancel: Cancel,
    filled: bool,
}

/// For how long the registry has been empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Empty {
    pub(crate) since: Instant,
    /// Whether it has held a container or Create before.
    pub(crate) used: bool,
}

impl Registry {
    pub(crate) fn new() -> Registry {
        Registry {
            slots: Mutex::new(Slots {
                by_id: HashMap::new(),
                pods: HashMap::new(),
                shutdown_requested: false,
                closed: false,
                used: false,
                empty_since: Instant::now(),
                restored: false,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// The registry, for the next version of this executable.
    pub(crate) fn save(&self) -> SavedRegistry {
        let slots = self.lock();
        SavedRegistry { shutdown_requested: slots.shutdown_requested, used: slots.used }
    }

    /// The log of a container, for the next version of this executable.
    pub(crate) fn save_log(&self, id: &str, out: &mut Outgoing) -> Option<SavedLog> {
        self.lock().by_id.get(id).map(|slot| slot.log.save(out))
    }

    /// The registry of [`Registry::save`], without containers.
    pub(crate) fn restore(saved: &SavedRegistry) -> Registry {
        let registry = Registry::new();
        let mut slots = registry.lock();
        slots.shutdown_requested = saved.shutdown_requested;
        slots.used = saved.used;
        slots.restored = true;
        drop(slots);
        registry
    }

    /// Registers a container that came along, with its log.
    pub(crate) fn adopt(&self, container: Container, log: ContainerLog) {
        let id = container.config().container.id.clone();
        let slot = Slot { phase: Phase::Created(container), log };
        self.release(|slots| drop(slots.by_id.insert(id, slot)));
    }

    /// Whether the registry came along in a handover.
    pub(crate) fn is_restored(&self) -> bool {
        self.lock().restored
    }

    /// Whether the registry accepts no more ids.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The id of a Create that is in progress.
    pub(crate) fn creating(&self) -> Option<String> {
        let slots = self.lock();
        let creating = |(_, slot): &(&String, &Slot)| matches!(slot.phase, Phase::Creating(_));
        slots.by_id.iter().find(creating).map(|(id, _)| id.clone())
    }

    /// Reserves an id for a Create, and opens the log in the bundle.
    ///
    /// # Errors
    /// [`Error::ContainerExists`], [`Error::ShuttingDown`].
    pub(crate) fn reserve(&self, id: &str, bundle: &Path) -> Result<Reserved<'_>> {
        let mut slots = self.lock();
        if slots.closed {
            return Err(Error::ShuttingDown);
        }
        slots.used = true;
        let cancel = Cancel::default();
        let entry = slots.by_id.entry(id.to_owned());
        if matches!(&entry, Entry::Occupied(occupied) if !is_removed(occupied.get())) {
            return Err(Error::ContainerExists(id.to_owned()));
        }
        entry.insert_entry(Slot {
            phase: Phase::Creating(cancel.clone()),
            log: ContainerLog::open(id, &bundle.join("log")),
        });
        drop(slots);
        self.changed.send_replace(());
        Ok(Reserved { registry: self, id: id.to_owned(), cancel, filled: false })
    }

    /// Reserves the id of a pod for a CreateSandbox.
    ///
    /// # Errors
    /// [`Error::PodExists`], [`Error::ShuttingDown`].
    pub(crate) fn reserve_pod(&self, id: &str) -> Result<ReservedPod<'_>> {
        let mut slots = self.lock();
        if slots.closed {
            return Err(Error::ShuttingDown);
        }
        match slots.pods.entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(Error::PodExists(id.to_owned())),
            Entry::Vacant(vacant) => vacant.insert(PodSlot::Creating),
        };
        slots.used = true;
        drop(slots);
        self.changed.send_replace(());
        Ok(ReservedPod { registry: self, id: id.to_owned(), filled: false })
    }

    /// Returns the pod with this id.
    pub(crate) fn pod(&self, id: &str) -> Option<Pod> {
        self.lock().pods.get(id).and_then(PodSlot::created).cloned()
    }

    /// Whether this daemon has a pod, or makes one.
    pub(crate) fn has_pod(&self) -> bool {
        !self.lock().pods.is_empty()
    }

    /// Returns the pods.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.lock().pods.values().filter_map(PodSlot::created).cloned().collect()
    }

    /// Removes a pod.
    pub(crate) fn remove_pod(&self, id: &str) {
        self.release(|slots| drop(slots.pods.remove(id)));
    }

    /// Returns all containers.
    pub(crate) fn containers(&self) -> Vec<Container> {
        let created = |slot: &Slot| match &slot.phase {
            Phase::Created(container) => Some(container.clone()),
            Phase::Creating(_) => None,
        };
        self.lock().by_id.values().filter_map(created).collect()
    }

    /// Counts the containers by state.
    pub(crate) fn census(&self) -> Census {
        Census::of(self.lock().by_id.values().map(Slot::state))
    }

    /// Returns the container with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Container> {
        match &self.lock().by_id.get(id)?.phase {
            Phase::Created(container) => Some(container.clone()),
            Phase::Creating(_) => None,
        }
    }

    /// Cancels the Create of this id. Returns false if no Create is in progress, or if it has
    /// settled already.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        match self.lock().by_id.get(id).map(|slot| &slot.phase) {
            Some(Phase::Creating(cancel)) => cancel.cancel(),
            Some(Phase::Created(_)) | None => false,
        }
    }

    /// Waits until no Create of this id is in progress.
    pub(crate) async fn settled(&self, id: &str) {
        let creating = |slot: &Slot| matches!(slot.phase, Phase::Creating(_));
        self.wait_for(|slots| !slots.by_id.get(id).is_some_and(creating)).await;
    }

    /// Removes a container.
    pub(crate) fn remove(&self, id: &str) {
        self.release(|slots| drop(slots.by_id.remove(id)));
    }

    /// Removes the containers that ended and whose bundles are deleted, and the pods whose files
    /// are: containerd has cleaned up after them with the `delete` command, and sends no Delete.
    pub(crate) fn forget_removed(&self) {
        self.release(|slots| {
            slots.by_id.retain(|_, slot| !is_removed(slot));
            slots.pods.retain(|_, slot| !slot.created().is_some_and(Pod::is_removed));
        });
    }

    /// Returns the containers that wait for Start and whose bundles are deleted: nothing can start
    /// them any more.
    pub(crate) fn without_bundle(&self) -> Vec<Container> {
        let mut containers = self.containers();
        containers.retain(|container| {
            matches!(container.snapshot().state, State::Created)
                && !container.config().container.bundle.exists()
        });
        containers
    }

    /// Closes the registry as soon as it is empty.
    pub(crate) fn request_shutdown(&self) {
        self.release(|slots| slots.shutdown_requested = true);
    }

    /// Closes the registry if it is empty and `retire` then succeeds, under the lock: no id can be
    /// reserved meanwhile. Returns whether it is closed.
    pub(crate) fn close_if_empty(&self, retire: impl FnOnce() -> bool) -> bool {
        let mut slots = self.lock();
        slots.closed |= slots.is_empty() && retire();
        let closed = slots.closed;
        drop(slots);
        self.changed.send_replace(());
        closed
    }

    /// Closes the registry, as [`Registry::close_if_empty`], also if all its containers have ended
    /// and no client is left to delete them.
    pub(crate) fn close_if_ended(&self, retire: impl FnOnce() -> bool) -> bool {
        let mut slots = self.lock();
        let ended = Census::of(slots.by_id.values().map(Slot::state)).live() == 0;
        slots.closed |= ended && slots.pods.is_empty() && retire();
        let closed = slots.closed;
        drop(slots);
        self.changed.send_replace(());
        closed
    }

    /// Waits until the registry is closed.
    pub(crate) async fn closed(&self) {
        self.wait_for(|slots| slots.closed).await;
    }

    /// Since when the registry is empty; `None` while it is not.
    pub(crate) fn empty(&self) -> Option<Empty> {
        let slots = self.lock();
        let empty = Empty { since: slots.empty_since, used: slots.used };
        slots.is_empty().then_some(empty)
    }

    /// Whether the registry holds a container or pod that was created.
    pub(crate) fn has_created(&self) -> bool {
        let slots = self.lock();
        slots.pods.values().any(|slot| slot.created().is_some())
            || slots.by_id.values().any(|slot| matches!(slot.phase, Phase::Created(_)))
    }

    /// Receives a signal after each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes the slots, and closes the registry if that left it empty with Shutdown requested.
    fn release(&self, change: impl FnOnce(&mut Slots)) {
        let mut slots = self.lock();
        let was_empty = slots.is_empty();
        change(&mut slots);
        let is_empty = slots.is_empty();
        if is_empty && !was_empty {
            slots.empty_since = Instant::now();
        }
        slots.closed |= is_empty && slots.shutdown_requested;
        drop(slots);
        self.changed.send_replace(());
    }

    async fn wait_for(&self, condition: impl Fn(&Slots) -> bool) {
        let mut changes = self.changes();
        while !condition(&self.lock()) {
            // `self` holds the sender: the channel cannot close.
            let _ = changes.changed().await;
        }
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this container has ended and its bundle has been deleted, or replaced by one that is not
/// in use yet.
fn is_removed(slot: &Slot) -> bool {
    let Phase::Created(container) = &slot.phase else { return false };
    let config = container.config();
    container.snapshot().state.exit().is_some()
        && !Bundle::new(&config.container.bundle, &config.container.id).is_used()
}

impl ReservedPod<'_> {
    /// Registers the pod.
    pub(crate) fn fill(mut self, pod: Pod) {
        self.filled = true;
        self.registry.release(|slots| {
            slots.shutdown_requested = false;
            slots.pods.insert(self.id.clone(), PodSlot::Created(pod));
        });
    }
}

impl Drop for ReservedPod<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.registry.remove_pod(&self.id);
        }
    }
}

impl Reserved<'_> {
    /// The id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The handle that cancels this Create.
    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Registers the container under the reserved id.
    pub(crate) fn fill(mut self, container: Container) {
        self.filled = true;
        self.registry.release(|slots| {
            slots.shutdown_requested = false;
            if let Some(slot) = slots.by_id.get_mut(&self.id) {
                slot.phase = Phase::Created(container);
            }
        });
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.registry.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve<'a>(registry: &'a Registry, id: &str) -> Result<Reserved<'a>> {
        registry.reserve(id, Path::new("/no/such/bundle"))
    }

    #[tokio::test]
    async fn a_create_that_is_on_its_way_can_be_cancelled_until_it_settles() {
        let registry = Registry::new();
        assert!(!registry.cancel("x"));
        let reserved = reserve(&registry, "x").unwrap();
        assert!(!reserved.cancel().is_cancelled());
        assert!(registry.cancel("x") && reserved.cancel().is_cancelled());
        // The cancelled Create fails, which releases the id and wakes those that wait for it.
        let wait = registry.settled("x");
        drop(reserved);
        wait.await;
        assert!(!registry.cancel("x") && registry.empty().is_some());
        let reserved = reserve(&registry, "x").unwrap();
        assert!(reserved.cancel().commit());
        assert!(!registry.cancel("x"));
    }

    #[tokio::test]
    async fn a_shutdown_during_a_create_closes_the_registry_when_that_fails() {
        let registry = Registry::new();
        let reserved = reserve(&registry, "x").unwrap();
        registry.request_shutdown();
        assert!(reserve(&registry, "y").is_ok(), "the daemon serves until it is empty");
        assert!(matches!(reserve(&registry, "x"), Err(Error::ContainerExists(_))));
        drop(reserved);
        registry.closed().await;
        assert!(matches!(reserve(&registry, "x"), Err(Error::ShuttingDown)));
    }

    #[tokio::test]
    async fn a_daemon_does_not_end_while_it_has_a_pod() {
        let registry = Registry::new();
        let reserved = registry.reserve_pod("pod").unwrap();
        assert!(matches!(registry.reserve_pod("pod"), Err(Error::PodExists(_))));
        assert!(registry.reserve_pod("other").is_ok() && registry.pod("pod").is_none());
        drop(reserve(&registry, "x").unwrap());
        registry.request_shutdown();
        assert!(!registry.close_if_empty(|| true) && registry.empty().is_none());
        drop(reserved);
        registry.closed().await;
        assert!(matches!(registry.reserve_pod("pod"), Err(Error::ShuttingDown)));
    }

    #[tokio::test]
    async fn the_idle_timeout_does_not_close_a_registry_in_use() {
        let registry = Registry::new();
        let reserved = reserve(&registry, "x").unwrap();
        assert!(!registry.close_if_empty(|| panic!("it is asked only when it is empty")));
        drop(reserved);
        assert!(!registry.close_if_empty(|| false) && reserve(&registry, "x").is_ok());
        assert!(registry.close_if_empty(|| true));
    }

    #[tokio::test]
    async fn an_id_is_reserved_once_and_released_by_the_create_that_fails() {
        let registry = Registry::new();
        let reserved = reserve(&registry, "x").unwrap();
        let again = reserve(&registry, "x").err().unwrap().to_string();
        assert_eq!(again, "container \"x\" already exists");
        assert!(registry.get("x").is_none(), "it does not exist yet");
        assert!(registry.empty().is_none() && !registry.has_created());
        drop(reserved);
        assert!(reserve(&registry, "x").is_ok());
    }

    #[tokio::test]
    async fn a_create_that_fails_does_not_settle_another() {
        let registry = Registry::new();
        let (one, other) = (reserve(&registry, "x").unwrap(), reserve(&registry, "y").unwrap());
        drop(one);
        let mut settled = std::pin::pin!(registry.settled("y"));
        let pending = std::future::poll_fn(|context| {
            std::task::Poll::Ready(settled.as_mut().poll(context).is_pending())
        });
        assert!(pending.await);
        drop(other);
        settled.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_is_empty_since_its_last_release() {
        let registry = Registry::new();
        let made = registry.empty().unwrap();
        assert!(!made.used);
        drop(reserve(&registry, "x").unwrap());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let (one, other) = (reserve(&registry, "x").unwrap(), reserve(&registry, "y").unwrap());
        drop(one);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        drop(other);
        let empty = registry.empty().unwrap();
        assert!(empty.used);
        assert_eq!(empty.since.duration_since(made.since).as_secs(), 2);
        // What releases nothing does not begin the idle time again.
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        registry.remove("z");
        registry.forget_removed();
        assert_eq!(registry.empty(), Some(empty));
    }

    #[tokio::test]
    async fn a_shutdown_without_containers_closes_at_once_and_for_ever() {
        let registry = Registry::new();
        registry.request_shutdown();
        registry.closed().await;
        assert_eq!(
            reserve(&registry, "x").err().unwrap().to_string(),
            "the shim is shutting down: create the container again"
        );
    }
}
