//! The images that wait to be compiled.
//!
//! An image is known by its namespace and digest: a client gives it several names, and a name gets
//! another image. It is cancelled when its last name is removed.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use wherry_containerd::Stored;
use wherry_supervisor::Cancel;

/// An image to compile.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) namespace: String,
    pub(super) image: Stored,
    /// Is cancelled when the image is removed.
    pub(super) cancel: Cancel,
}

impl Job {
    fn is(&self, namespace: &str, digest: &str) -> bool {
        self.namespace == namespace && self.image.digest == digest
    }
}

#[derive(Debug, Default)]
struct State {
    /// The digests of each namespace.
    known: HashMap<String, HashSet<String>>,
    waiting: VecDeque<Job>,
    running: Option<Job>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespaces that have had images.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.state().known.keys().cloned().collect()
    }

    /// Compares the images of a namespace with those that it had: new ones are queued, unless
    /// `compile` is false, and removed ones are cancelled.
    pub(super) fn update(&self, namespace: &str, images: &[Stored], compile: bool) {
        let mut state = self.state();
        let State { known, waiting, running } = &mut *state;
        let old = known.remove(namespace).unwrap_or_default();
        let mut now = HashSet::new();
        for image in images {
            if now.insert(image.digest.clone()) && compile && !old.contains(&image.digest) {
                waiting.push_back(Job {
                    namespace: namespace.to_owned(),
                    image: image.clone(),
                    cancel: Cancel::default(),
                });
            }
        }
        for gone in old.difference(&now) {
            waiting.retain(|job| !job.is(namespace, gone));
            if let Some(job) = running.as_ref().filter(|job| job.is(namespace, gone)) {
                // A job is never committed, so this always succeeds.
                let _ = job.cancel.cancel();
            }
        }
        if !now.is_empty() {
            known.insert(namespace.to_owned(), now);
        }
        self.changed.notify_all();
    }

    /// Waits for the next image.
    pub(super) fn next(&self) -> Job {
        let mut state = self.state();
        loop {
            if let Some(job) = state.waiting.pop_front() {
                state.running = Some(job.clone());
                return job;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The image of the last [`Queue::next`] is compiled.
    pub(super) fn done(&self) {
        self.state().running = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, digest: &str) -> Stored {
        Stored {
            name: name.to_owned(),
            media_type: String::new(),
            digest: digest.to_owned(),
            size: 1,
        }
    }

    fn waiting(queue: &Queue) -> Vec<String> {
        queue.state().waiting.iter().map(|job| job.image.name.clone()).collect()
    }

    #[test]
    fn an_image_is_queued_once_for_all_its_names() {
        let queue = Queue::default();
        queue.update("a", &[image("one", "1")], false);
        assert!(waiting(&queue).is_empty(), "it existed before");
        let images = [image("one", "1"), image("two", "2"), image("two@2", "2")];
        queue.update("a", &images, true);
        queue.update("a", &images, true);
        assert_eq!(waiting(&queue), ["two"]);
        queue.update("b", &[image("two", "2")], true);
        assert_eq!(waiting(&queue), ["two", "two"]);
        assert_eq!(queue.namespaces().len(), 2);
    }

    #[test]
    fn the_removal_of_the_last_name_cancels() {
        let queue = Queue::default();
        queue.update("a", &[image("one", "1"), image("other", "1"), image("two", "2")], true);
        let job = queue.next();
        queue.update("a", &[image("other", "1"), image("two", "2")], true);
        assert!(!job.cancel.is_cancelled());
        queue.update("a", &[image("two", "2")], true);
        assert!(job.cancel.is_cancelled());
        queue.update("a", &[], true);
        assert!(waiting(&queue).is_empty());
        queue.done();
        // It comes back.
        queue.update("a", &[image("one", "1")], true);
        assert!(!queue.next().cancel.is_cancelled());
    }
}
