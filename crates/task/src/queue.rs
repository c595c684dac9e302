//! The events that containerd does not have yet, in their order.
//!
//! containerd may be away for long, so the queue is bounded. When it is full it makes room with the events that clients
//! miss least, and of the container that has the most of them: a guest that makes many cannot push out what happens to
//! another. An event that is being sent stays until its end is known.

use std::collections::{HashMap, VecDeque};

/// How much a client misses an event that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Worth {
    /// Told besides: kills for want of memory, pauses, processes that are added and started.
    Detail,
    /// The end of a process that has joined a container.
    ExecExit,
    /// Creation, start, end and removal of a container. They are never dropped: there are four for each container, and
    /// without them containerd loses it.
    Life,
}

/// How often an event is sent that containerd refuses.
const REFUSALS_MAX: u32 = 5;

/// A bounded queue of events.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: VecDeque<Entry<T>>,
    max: usize,
    /// Whether the first is being sent.
    sending: bool,
    /// How often the first has been refused.
    refusals: u32,
}

#[derive(Debug)]
struct Entry<T> {
    container: String,
    worth: Worth,
    event: T,
}

impl<T> Queue<T> {
    /// A queue that holds `max` events, and more only of [`Worth::Life`].
    pub(crate) fn new(max: usize) -> Queue<T> {
        Queue { waiting: VecDeque::new(), max, sending: false, refusals: 0 }
    }

    /// Adds an event of a container. Returns the one that was dropped to make room.
    pub(crate) fn push(&mut self, container: String, worth: Worth, event: T) -> Option<T> {
        self.waiting.push_back(Entry { container, worth, event });
        if self.waiting.len() <= self.max {
            return None;
        }
        let index = self.least()?;
        self.waiting.remove(index).map(|entry| entry.event)
    }

    /// The oldest of the least worth, of the container that has the most of these. None: all are to be kept.
    fn least(&self) -> Option<usize> {
        let droppable = || {
            let waiting = self.waiting.iter().enumerate().skip(usize::from(self.sending));
            waiting.filter(|(_, entry)| entry.worth != Worth::Life)
        };
        let worth = droppable().map(|(_, entry)| entry.worth).min()?;
        let of_worth = || droppable().filter(|(_, entry)| entry.worth == worth);
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (_, entry) in of_worth() {
            *counts.entry(&entry.container).or_default() += 1;
        }
        let most = counts.values().max()?;
        let mut oldest = of_worth();
        oldest.find(|(_, entry)| counts.get(&*entry.container) == Some(most)).map(|(at, _)| at)
    }

    /// The first event, which stays until [`Queue::sent`] or [`Queue::refused`] takes it away.
    pub(crate) fn begin(&mut self) -> Option<&T> {
        let first = self.waiting.front()?;
        self.sending = true;
        Some(&first.event)
    }

    /// The first has arrived.
    pub(crate) fn sent(&mut self) {
        self.drop_first();
    }

    /// The first did not arrive: it is to be sent again.
    pub(crate) fn failed(&mut self) {
        self.sending = false;
    }

    /// The first was refused. Returns it if it has been refused often enough to be dropped.
    pub(crate) fn refused(&mut self) -> Option<T> {
        self.refusals += 1;
        if self.refusals < REFUSALS_MAX {
            self.sending = false;
            return None;
        }
        self.drop_first()
    }

    fn drop_first(&mut self) -> Option<T> {
        self.sending = false;
        self.refusals = 0;
        self.waiting.pop_front().map(|entry| entry.event)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether containerd has them all.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut Queue<u32>, container: &str, worth: Worth, event: u32) -> Option<u32> {
        queue.push(container.to_owned(), worth, event)
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
        push(&mut queue, "a", Worth::Detail, 1);
        push(&mut queue, "a", Worth::Detail, 2);
        assert_eq!(queue.begin(), Some(&1));
        assert_eq!(push(&mut queue, "a", Worth::Detail, 3), Some(2));
        assert_eq!(push(&mut queue, "a", Worth::Detail, 4), Some(3));
        queue.sent();
        assert_eq!(rest(queue), [4]);
        // One that did not arrive may be dropped before it is sent again.
        let mut queue = Queue::new(1);
        push(&mut queue, "a", Worth::Detail, 1);
        queue.begin();
        queue.failed();
        assert_eq!(push(&mut queue, "a", Worth::Detail, 2), Some(1));
    }

    #[test]
    fn details_of_one_container_do_not_push_out_the_exit_of_another() {
        let mut queue = Queue::new(4);
        push(&mut queue, "quiet", Worth::Life, 1);
        push(&mut queue, "quiet", Worth::ExecExit, 2);
        push(&mut queue, "quiet", Worth::Detail, 3);
        for event in 10..100 {
            push(&mut queue, "loud", Worth::Detail, event);
        }
        assert_eq!(push(&mut queue, "quiet", Worth::Life, 4), Some(3));
        assert_eq!(rest(queue), [1, 2, 99, 4]);
    }

    #[test]
    fn room_is_made_by_the_container_that_has_the_most() {
        let mut queue = Queue::new(5);
        for (container, event) in [("a", 1), ("b", 2), ("b", 3), ("c", 4), ("b", 5)] {
            assert_eq!(push(&mut queue, container, Worth::Detail, event), None);
        }
        assert_eq!(push(&mut queue, "d", Worth::Detail, 6), Some(2));
        assert_eq!(push(&mut queue, "d", Worth::Life, 7), Some(3));
        assert_eq!(rest(queue), [1, 4, 5, 6, 7]);
    }

    #[test]
    fn ends_of_execs_go_only_when_no_details_are_left() {
        let mut queue = Queue::new(2);
        push(&mut queue, "a", Worth::ExecExit, 1);
        push(&mut queue, "b", Worth::Detail, 2);
        assert_eq!(push(&mut queue, "c", Worth::Life, 3), Some(2));
        assert_eq!(push(&mut queue, "c", Worth::Life, 4), Some(1));
        assert_eq!(rest(queue), [3, 4]);
    }

    #[test]
    fn the_life_of_a_container_is_never_dropped() {
        let mut queue = Queue::new(2);
        for event in 0..10 {
            assert_eq!(push(&mut queue, "a", Worth::Life, event), None);
        }
        // What there is no room for is the new one itself.
        assert_eq!(push(&mut queue, "a", Worth::Detail, 10), Some(10));
        assert_eq!(queue.len(), 10);
    }

    #[test]
    fn an_event_that_is_refused_for_ever_makes_way() {
        let mut queue = Queue::new(5);
        push(&mut queue, "a", Worth::Life, 1);
        push(&mut queue, "a", Worth::Life, 2);
        for turn in 1..=REFUSALS_MAX {
            assert_eq!(queue.begin(), Some(&1));
            // A lost connection is not a refusal.
            queue.failed();
            assert_eq!(queue.begin(), Some(&1));
            assert_eq!(queue.refused(), (turn == REFUSALS_MAX).then_some(1));
        }
        assert_eq!(queue.begin(), Some(&2));
        assert_eq!(queue.refused(), None, "each has its own count");
        queue.begin();
        queue.sent();
        assert!(queue.is_empty());
    }
}
