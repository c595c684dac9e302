//! The states of a container, or of another process in it, and what may follow on what.
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
//! A container comes into being Created: before that there is nothing that could be asked for
//! anything. One that was never started may end, and be deleted. A process that joins a container
//! has the same states but Paused; Created, it is only known and does not exist yet.

use wherry_sandbox::process::Exit;

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its first process waits for Start.
    Created,
    /// The guest runs.
    Running,
    /// The guest is frozen.
    Paused,
    /// The guest has ended.
    Stopped(Exit),
    /// Nothing is left of it.
    Deleted(Exit),
}

/// What can happen to a container, or be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Start was asked for and the guest runs.
    Started,
    /// The guest was frozen.
    Paused,
    /// The guest was thawed.
    Resumed,
    /// The first process ended.
    Exited(Exit),
    /// Delete was asked for and done.
    Deleted,
}

/// What was asked for cannot be done in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} a {} container", .what.verb(), .state.name())]
pub struct Refused {
    state: State,
    what: Happening,
}

impl State {
    /// The state after `what`. Every pair is written out: a new state or happening does not
    /// compile until somebody has thought about all of its pairs.
    ///
    /// # Errors
    /// When `what` cannot be in this state.
    pub fn after(self, what: Happening) -> Result<State, Refused> {
        use Happening as H;
        use State as S;
        match (self, what) {
            (S::Created, H::Started) => Ok(S::Running),
            (S::Created, H::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Running, H::Paused) => Ok(S::Paused),
            (S::Running, H::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Paused, H::Resumed) => Ok(S::Running),
            (S::Paused, H::Exited(exit)) => Ok(S::Stopped(exit)),

            (S::Stopped(exit), H::Deleted) => Ok(S::Deleted(exit)),

            (S::Created, H::Paused | H::Resumed | H::Deleted)
            | (S::Running, H::Started | H::Resumed | H::Deleted)
            | (S::Paused, H::Started | H::Paused | H::Deleted)
            | (S::Stopped(_), H::Started | H::Paused | H::Resumed | H::Exited(_))
            | (S::Deleted(_), H::Started | H::Paused | H::Resumed | H::Exited(_) | H::Deleted) => {
                Err(Refused { state: self, what })
            }
        }
    }

    /// How it ended, if it has.
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

impl Happening {
    fn verb(self) -> &'static str {
        match self {
            Happening::Started => "start",
            Happening::Paused => "pause",
            Happening::Resumed => "resume",
            Happening::Exited(_) => "end",
            Happening::Deleted => "delete",
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
            Happening::Started,
            Happening::Paused,
            Happening::Resumed,
            Happening::Exited(exit),
            Happening::Deleted,
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
        let refused = State::Running.after(Happening::Started).unwrap_err();
        assert_eq!(refused.to_string(), "cannot start a running container");
    }

    #[test]
    fn an_exit_stays_known() {
        let exit = Exit { status: 3, at: SystemTime::UNIX_EPOCH };
        assert_eq!(State::Deleted(exit).exit(), Some(exit));
        assert_eq!(State::Running.exit(), None);
    }
}
