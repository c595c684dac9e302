//! The containers of this daemon, by their ids.
//!
//! The lock is held for a look-up and never across a wait. An id is taken from the moment that
//! its Create begins.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wherry_container::Container;
use wherry_supervisor::Cancel;

#[derive(Default)]
pub(crate) struct Registry {
    slots: Mutex<HashMap<String, Slot>>,
    used: AtomicBool,
    /// A Create has ended, well or not.
    settled: Notify,
}

enum Slot {
    /// Its Create is on its way, and can be cancelled with this.
    Coming(Cancel),
    There(Container),
}

/// An id that is taken; free again when this is dropped without [`Reserved::fill`].
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    id: String,
    cancel: Cancel,
    filled: bool,
}

impl Registry {
    /// Takes an id. None when it is taken already.
    pub(crate) fn reserve(&self, id: &str) -> Option<Reserved<'_>> {
        self.used.store(true, Ordering::Relaxed);
        match self.lock().entry(id.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let cancel = Cancel::default();
                vacant.insert(Slot::Coming(cancel.clone()));
                Some(Reserved { registry: self, id: id.to_owned(), cancel, filled: false })
            }
        }
    }

    /// The container with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Container> {
        match self.lock().get(id) {
            Some(Slot::There(container)) => Some(container.clone()),
            Some(Slot::Coming(_)) | None => None,
        }
    }

    /// Cancels the Create of this id. Returns false if none is on its way that has not settled.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        match self.lock().get(id) {
            Some(Slot::Coming(cancel)) => cancel.cancel(),
            Some(Slot::There(_)) | None => false,
        }
    }

    /// Waits until no Create of this id is on its way.
    pub(crate) async fn settled(&self, id: &str) {
        loop {
            let settled = self.settled.notified();
            if !matches!(self.lock().get(id), Some(Slot::Coming(_))) {
                return;
            }
            settled.await;
        }
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Whether there is none, nor one on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether an id has ever been taken.
    pub(crate) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved<'_> {
    /// Whether the Create is still wanted.
    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Puts the container where its id is.
    pub(crate) fn fill(mut self, container: Container) {
        self.filled = true;
        self.registry.lock().insert(self.id.clone(), Slot::There(container));
        self.registry.settled.notify_waiters();
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.registry.remove(&self.id);
            self.registry.settled.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_create_that_is_on_its_way_can_be_cancelled_until_it_settles() {
        let registry = Registry::default();
        assert!(!registry.cancel("x"));
        let reserved = registry.reserve("x").unwrap();
        assert!(!reserved.cancel().is_cancelled());
        assert!(registry.cancel("x") && reserved.cancel().is_cancelled());
        // It fails then, and whoever waits for that goes on.
        let wait = registry.settled("x");
        drop(reserved);
        wait.await;
        assert!(!registry.cancel("x") && registry.is_empty());
        let reserved = registry.reserve("x").unwrap();
        assert!(reserved.cancel().settle());
        assert!(!registry.cancel("x"));
    }
}
