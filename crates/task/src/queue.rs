//! The events that containerd has not acknowledged, in order.
//!
//! containerd may be down for hours, so the queue is bounded. When it is full, it drops the oldest
//! event of the least priority, from the container with the most events of that priority: a guest
//! that produces many events cannot push out those of another container. An event that is being
//! sent is not dropped.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Which events are dropped first when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Priority {
    /// Out-of-memory kills, pauses, and execs that are added and started.
    Detail,
    /// The exit of an exec.
    ExecExit,
    /// Create, Start, Exit and Delete of a container. Never dropped: a container has four of them,
    /// and without them containerd keeps a wrong state.
    Life,
}

/// The maximum of attempts to send an event that containerd rejects.
const ATTEMPTS_MAX: u32 = 5;

/// A bounded queue of events.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: VecDeque<Entry<T>>,
    max: usize,
    /// Whether the first event is being sent.
    sending: bool,
    /// The number of rejections of the first event.
    rejections: u32,
}

#[derive(Debug)]
struct Entry<T> {
    container: String,
    priority: Priority,
    event: T,
}

impl<T> Queue<T> {
    /// Makes a queue of at most `max` events, not counting those of [`Priority::Life`] above that.
    pub(crate) fn new(max: usize) -> Queue<T> {
        Queue { waiting: VecDeque::new(), max, sending: false, rejections: 0 }
    }

    /// Appends an event of a container. Returns the event that was dropped to make room.
    pub(crate) fn push(&mut self, container: String, priority: Priority, event: T) -> Option<T> {
        self.waiting.push_back(Entry { container, priority, event });
        if self.waiting.len() <= self.max {
            return None;
        }
        let index = self.least()?;
        self.waiting.remove(index).map(|entry| entry.event)
    }

    /// The index of the event to drop; `None` if all must be kept.
    fn least(&self) -> Option<usize> {
        let droppable = || {
            let waiting = self.waiting.iter().enumerate().skip(usize::from(self.sending));
            waiting.filter(|(_, entry)| entry.priority != Priority::Life)
        };
        let priority = droppable().map(|(_, entry)| entry.priority).min()?;
        let of_priority = || droppable().filter(|(_, entry)| entry.priority == priority);
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (_, entry) in of_priority() {
            *counts.entry(&entry.container).or_default() += 1;
        }
        let most = counts.values().max()?;
        let mut oldest = of_priority();
        oldest.find(|(_, entry)| counts.get(&*entry.container) == Some(most)).map(|(at, _)| at)
    }

    /// Returns the first event and marks it as being sent, until [`Queue::sent`], [`Queue::failed`]
    /// or [`Queue::rejected`].
    pub(crate) fn begin(&mut self) -> Option<&T> {
        let first = self.waiting.front()?;
        self.sending = true;
        Some(&first.event)
    }

    /// Removes the first event, which containerd acknowledged.
    pub(crate) fn sent(&mut self) {
        self.drop_first();
    }

    /// Keeps the first event, which could not be sent, for the next attempt.
    pub(crate) fn failed(&mut self) {
        self.sending = false;
    }

    /// Counts a rejection of the first event. Returns the event if that was the last attempt.
    pub(crate) fn rejected(&mut self) -> Option<T> {
        self.rejections += 1;
        if self.rejections < ATTEMPTS_MAX {
            self.sending = false;
            return None;
        }
        self.drop_first()
    }

    fn drop_first(&mut self) -> Option<T> {
        self.sending = false;
        self.rejections = 0;
        self.waiting.pop_front().map(|entry| entry.event)
    }

    /// Whether the first event is being sent.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// All events, with their containers and priorities, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Priority, &T)> {
        self.waiting.iter().map(|entry| (&*entry.container, entry.priority, &entry.event))
    }

    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether containerd has acknowledged all events.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(
        queue: &mut Queue<u32>,
        container: &str,
        priority: Priority,
        event: u32,
    ) -> Option<u32> {
        queue.push(container.to_owned(), priority, event)
    }

    fn rest(mut queue: Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| {
            let event = queue.begin().copied();
            queue.sent();
            event
        })
        .collect()
    }

    #[test]
    fn an_event_that_is_being_sent_is_not_dropped() {
        let mut queue = Queue::new(2);
        push(&mut queue, "a", Priority::Detail, 1);
        push(&mut queue, "a", Priority::Detail, 2);
        assert_eq!(queue.begin(), Some(&1));
        assert_eq!(push(&mut queue, "a", Priority::Detail, 3), Some(2));
        assert_eq!(push(&mut queue, "a", Priority::Detail, 4), Some(3));
        queue.sent();
        assert_eq!(rest(queue), [4]);
        // An event that could not be sent may be dropped before the next attempt.
        let mut queue = Queue::new(1);
        push(&mut queue, "a", Priority::Detail, 1);
        queue.begin();
        queue.failed();
        assert_eq!(push(&mut queue, "a", Priority::Detail, 2), Some(1));
    }

    #[test]
    fn details_of_one_container_do_not_push_out_the_exit_of_another() {
        let mut queue = Queue::new(4);
        push(&mut queue, "quiet", Priority::Life, 1);
        push(&mut queue, "quiet", Priority::ExecExit, 2);
        push(&mut queue, "quiet", Priority::Detail, 3);
        for event in 10..100 {
            push(&mut queue, "loud", Priority::Detail, event);
        }
        assert_eq!(push(&mut queue, "quiet", Priority::Life, 4), Some(3));
        assert_eq!(rest(queue), [1, 2, 99, 4]);
    }

    #[test]
    fn room_is_made_by_the_container_that_has_the_most() {
        let mut queue = Queue::new(5);
        for (container, event) in [("a", 1), ("b", 2), ("b", 3), ("c", 4), ("b", 5)] {
            assert_eq!(push(&mut queue, container, Priority::Detail, event), None);
        }
        assert_eq!(push(&mut queue, "d", Priority::Detail, 6), Some(2));
        assert_eq!(push(&mut queue, "d", Priority::Life, 7), Some(3));
        assert_eq!(rest(queue), [1, 4, 5, 6, 7]);
    }

    #[test]
    fn ends_of_execs_go_only_when_no_details_are_left() {
        let mut queue = Queue::new(2);
        push(&mut queue, "a", Priority::ExecExit, 1);
        push(&mut queue, "b", Priority::Detail, 2);
        assert_eq!(push(&mut queue, "c", Priority::Life, 3), Some(2));
        assert_eq!(push(&mut queue, "c", Priority::Life, 4), Some(1));
        assert_eq!(rest(queue), [3, 4]);
    }

    #[test]
    fn the_life_of_a_container_is_never_dropped() {
        let mut queue = Queue::new(2);
        for event in 0..10 {
            assert_eq!(push(&mut queue, "a", Priority::Life, event), None);
        }
        // The new event itself is dropped.
        assert_eq!(push(&mut queue, "a", Priority::Detail, 10), Some(10));
        assert_eq!(queue.len(), 10);
    }

    #[test]
    fn an_event_that_is_refused_for_ever_makes_way() {
        let mut queue = Queue::new(5);
        push(&mut queue, "a", Priority::Life, 1);
        push(&mut queue, "a", Priority::Life, 2);
        for turn in 1..=ATTEMPTS_MAX {
            assert_eq!(queue.begin(), Some(&1));
            // A lost connection is not a rejection.
            queue.failed();
            assert_eq!(queue.begin(), Some(&1));
            assert_eq!(queue.rejected(), (turn == ATTEMPTS_MAX).then_some(1));
        }
        assert_eq!(queue.begin(), Some(&2));
        assert_eq!(queue.rejected(), None, "each event has its own count");
        queue.begin();
        queue.sent();
        assert!(queue.is_empty());
    }
}
