//! The number of containers in each state.

use std::fmt;

use wherry_container::State;

/// The containers of a daemon, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Their Create is in progress.
    pub creating: usize,
    /// They wait for Start.
    pub created: usize,
    /// Their guests run.
    pub running: usize,
    /// Their guests are frozen.
    pub paused: usize,
    /// Their guests have ended, and Delete has not been called.
    pub stopped: usize,
}

impl Census {
    /// Counts states, of which None is that of a Create in progress.
    pub(crate) fn of(states: impl Iterator<Item = Option<State>>) -> Census {
        let mut census = Census::default();
        for state in states {
            match state {
                None => census.creating += 1,
                Some(State::Created) => census.created += 1,
                Some(State::Running) => census.running += 1,
                Some(State::Paused) => census.paused += 1,
                Some(State::Stopped(_)) => census.stopped += 1,
                // Removed from the registry in a moment.
                Some(State::Deleted(_)) => {}
            }
        }
        census
    }

    /// The number of containers that have a process, or are about to.
    pub(crate) fn live(&self) -> usize {
        self.creating + self.created + self.running + self.paused
    }

    /// The names of the states, as containerd has them, with their numbers.
    #[must_use]
    pub fn by_state(&self) -> [(&'static str, usize); 5] {
        let Census { creating, created, running, paused, stopped } = *self;
        [
            ("creating", creating),
            ("created", created),
            ("running", running),
            ("paused", paused),
            ("stopped", stopped),
        ]
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (state, count) in self.by_state().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {state}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_container::Exit;

    #[test]
    fn containers_are_counted_by_state_and_named_with_their_number() {
        let exit = Exit::now(0);
        let states = [
            None,
            Some(State::Running),
            Some(State::Stopped(exit)),
            Some(State::Running),
            Some(State::Deleted(exit)),
        ];
        let census = Census::of(states.into_iter());
        assert_eq!(census.to_string(), "1 creating, 2 running, 1 stopped");
        assert_eq!(census.live(), 3);
        assert_eq!(Census::default().to_string(), "none");
    }
}
