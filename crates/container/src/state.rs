//! The states of a container, or of a process that was added to it, and the valid transitions.
//!
//! ```text
//!            Start                Pause
//!  Created ─────────▶ Running ◀─────────▶ Paused
//!     │                  │      Resume       │
//!     │ Exited           │ Exited            │ Exited
//!     ▼                  ▼                   │
//!  Stopped ◀─────────────┴───────────────────┘
//!     │ Delete
//!     ▼
//!  Deleted
//! ```
//!
//! A container exists from Created on. One that was never started may exit, and be deleted. An
//! added process has the same states except Paused; in Created it is registered and does not exist
//! yet.

use serde::{Deserialize, Serialize};
use wherry_sys::process::Exit;

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its first process waits for Start.
    Created,
    /// The guest runs.
    Running,
    /// The guest is frozen.
    Paused,
    /// The guest has ended.
    Stopped(Exit),
    /// It was removed.
    Deleted(Exit),
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The guest was started.
    Started,
    /// The guest was frozen.
    Paused,
    /// The guest was thawed.
    Resumed,
    /// The process has exited.
    Exited(Exit),
    /// The container was removed.
    Deleted,
}

/// A transition is not valid in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} a {} container", .transition.verb(), .state.name())]
pub struct Refused {
    state: State,
    transition: Transition,
}

impl State {
    /// The state after a transition. Every pair is written out, so that a new state or transition
    /// does not compile before all of its pairs are decided.
    ///
    /// # Errors
    /// If the transition is not valid in this state.
    pub fn after(self, transition: Transition) -> Result<State, Refused> {
        use State as S;
        use Transition as T;
        match (self, transition) {
            (S::Created, T::Started) => Ok(S::Running),
            (S::Created, T::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Running, T::Paused) => Ok(S::Paused),
            (S::Running, T::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Paused, T::Resumed) => Ok(S::Running),
            (S::Paused, T::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Stopped(exit), T::Deleted) => Ok(S::Deleted(exit)),

            (S::Created, T::Paused | T::Resumed | T::Deleted)
            | (S::Running, T::Started | T::Resumed | T::Deleted)
            | (S::Paused, T::Started | T::Paused | T::Deleted)
            | (S::Stopped(_), T::Started | T::Paused | T::Resumed | T::Exited(_))
            | (S::Deleted(_), T::Started | T::Paused | T::Resumed | T::Exited(_) | T::Deleted) => {
                Err(Refused { state: self, transition })
            }
        }
    }

    /// The exit, if the process has exited.
    #[must_use]
    pub fn exit(self) -> Option<Exit> {
        match self {
            State::Stopped(exit) | State::Deleted(exit) => Some(exit),
            State::Created | State::Running | State::Paused => None,
        }
    }

    /// The state's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped(_) => "stopped",
            State::Deleted(_) => "deleted",
        }
    }
}

impl Transition {
    fn verb(self) -> &'static str {
        match self {
            Transition::Started => "start",
            Transition::Paused => "pause",
            Transition::Resumed => "resume",
            Transition::Exited(_) => "end",
            Transition::Deleted => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn every_pair() {
        let exit = Exit { status: 3, at: SystemTime::UNIX_EPOCH };
        let (created, running, paused) = (State::Created, State::Running, State::Paused);
        let (stopped, deleted) = (State::Stopped(exit), State::Deleted(exit));
        let whats = [
            Transition::Started,
            Transition::Paused,
            Transition::Resumed,
            Transition::Exited(exit),
            Transition::Deleted,
        ];
        // Rows: states. Columns: started, paused, resumed, exited, deleted. None: refused.
        let table = [
            (created, [Some(running), None, None, Some(stopped), None]),
            (running, [None, Some(paused), None, Some(stopped), None]),
            (paused, [None, None, Some(running), Some(stopped), None]),
            (stopped, [None, None, None, None, Some(deleted)]),
            (deleted, [None, None, None, None, None]),
        ];
        for (state, row) in table {
            for (what, expected) in whats.into_iter().zip(row) {
                assert_eq!(state.after(what).ok(), expected, "{state:?} {what:?}");
            }
        }
    }

    #[test]
    fn a_refusal_is_a_sentence() {
        let refused = State::Running.after(Transition::Started).unwrap_err();
        assert_eq!(refused.to_string(), "cannot start a running container");
    }

    #[test]
    fn an_exit_stays_known() {
        let exit = Exit { status: 3, at: SystemTime::UNIX_EPOCH };
        assert_eq!(State::Deleted(exit).exit(), Some(exit));
        assert_eq!(State::Running.exit(), None);
    }
}
