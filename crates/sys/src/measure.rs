//! Measurements: the facts that a daemon counts for its operator, reported where they happen.
//!
//! A process without a recorder, such as a container's own daemon, pays one load of a static for
//! each report, and reads no clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static RECORDER: OnceLock<&'static dyn Recorder> = OnceLock::new();

/// A fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement<'a> {
    /// A process needed an engine host.
    Host {
        /// The container.
        id: &'a str,
        /// Whether the process is the container's first.
        first: bool,
        /// Whether a spare host was ready.
        spare: bool,
    },
    /// A process needed compiled code.
    Code {
        /// The container.
        id: &'a str,
        /// How long the compilation took. None if the cache had the code.
        compiled: Option<Duration>,
    },
    /// An engine host forked a process.
    Forked {
        /// Whether the process is its container's first.
        first: bool,
    },
    /// A Create was answered.
    Created {
        /// The container.
        id: &'a str,
        /// Whether the container exists.
        success: bool,
        /// How long it took.
        took: Duration,
    },
    /// A Start of a container's first process was answered.
    Started {
        /// The container.
        id: &'a str,
        /// Whether the guest runs.
        success: bool,
        /// How long it took.
        took: Duration,
    },
    /// The first process of a container has exited.
    Exited {
        /// The exit status, or 128 plus the signal that killed it.
        status: u32,
        /// Whether the kernel killed a process of the container because memory was short.
        out_of_memory: bool,
    },
    /// A container was removed.
    Deleted {
        /// The container.
        id: &'a str,
    },
    /// A request of a client was answered.
    Answered {
        /// The method, as `Create`.
        method: &'a str,
        /// How long it took.
        took: Duration,
    },
}

/// Takes the measurements of this process. A recorder must not block.
pub trait Recorder: Sync {
    /// Records one.
    fn record(&self, measurement: Measurement<'_>);
}

/// Starts measuring. Only the first call has an effect.
pub fn start(recorder: &'static dyn Recorder) {
    // A second recorder would be a second manager in one process.
    let _ = RECORDER.set(recorder);
}

/// Reports a measurement, which is made only if there is a recorder.
pub fn report<'a>(measurement: impl FnOnce() -> Measurement<'a>) {
    if let Some(recorder) = RECORDER.get() {
        recorder.record(measurement());
    }
}

/// The time since a moment that is read only if there is a recorder.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Option<Instant>);

impl Clock {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Clock {
        Clock(RECORDER.get().map(|_| Instant::now()))
    }

    /// Reports a measurement with the time since the start.
    pub fn report<'a>(self, measurement: impl FnOnce(Duration) -> Measurement<'a>) {
        if let Some(since) = self.0 {
            report(|| measurement(since.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Statuses(Mutex<Vec<u32>>);

    impl Recorder for Statuses {
        fn record(&self, measurement: Measurement<'_>) {
            if let Measurement::Exited { status, .. } = measurement {
                self.0.lock().unwrap().push(status);
            }
        }
    }

    /// In another process: the recorder is the whole process's.
    #[test]
    fn measurements_are_made_for_the_first_recorder_alone() {
        if !crate::alone("measure::tests::measurements_are_made_for_the_first_recorder_alone") {
            return;
        }
        report(|| panic!("a measurement without a recorder"));
        let early = Clock::start();
        let (first, second): (&Statuses, &Statuses) =
            (Box::leak(Box::default()), Box::leak(Box::default()));
        start(first);
        start(second);
        early.report(|_| panic!("a clock that was started without a recorder"));
        let exited = |status| Measurement::Exited { status, out_of_memory: false };
        report(|| exited(1));
        Clock::start().report(|_| exited(2));
        assert_eq!(*first.0.lock().unwrap(), [1, 2]);
        assert!(second.0.lock().unwrap().is_empty());
    }
}
