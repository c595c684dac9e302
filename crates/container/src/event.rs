//! The events of a container, published in order.

use wherry_protocol::Mount;
use wherry_sys::process::Exit;

use crate::stdio::StdioPaths;

/// An event of the container `id`, or of the process `exec_id` in it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container.
    pub id: String,
    /// The process; empty for the first one and for the container as a whole.
    pub exec_id: String,
    /// The kind.
    pub kind: EventKind,
}

/// The kind of an event.
#[derive(Debug, Clone)]
pub enum EventKind {
    /// The container was created.
    Created {
        /// Its bundle.
        bundle: String,
        /// The mounts of its root filesystem.
        rootfs: Vec<Mount>,
        /// Its streams.
        stdio: StdioPaths,
        /// Whether they are a terminal.
        terminal: bool,
        /// Its first process.
        pid: i32,
    },
    /// A process was added.
    ExecAdded,
    /// The process runs.
    Started {
        /// Its pid.
        pid: i32,
    },
    /// All processes are frozen.
    Paused,
    /// All processes are thawed.
    Resumed,
    /// The kernel killed a process because the container is out of memory.
    OutOfMemory,
    /// The process has exited.
    Exited {
        /// Its pid.
        pid: i32,
        /// The exit.
        exit: Exit,
    },
    /// The container was removed.
    Deleted {
        /// The pid of its first process.
        pid: i32,
        /// The exit of that process.
        exit: Exit,
    },
}

/// Receives events in order. Must not block.
pub trait EventSink: Send + Sync {
    /// Queues one event.
    fn send(&self, event: Event);
}
