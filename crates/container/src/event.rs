//! What happens to a container, told in order.

use wherry_sandbox::process::Exit;
use wherry_sandbox::stdio::StdioPaths;

/// Something that happened to a container.
#[derive(Debug, Clone)]
pub enum Event {
    /// It exists.
    Created {
        /// The container.
        id: String,
        /// Its bundle.
        bundle: String,
        /// The mounts of its root filesystem.
        rootfs: Vec<wherry_sandbox::Mount>,
        /// Its streams.
        stdio: StdioPaths,
        /// Whether standard input and output are a terminal.
        terminal: bool,
        /// Its first process.
        pid: i32,
    },
    /// The guest runs.
    Started {
        /// The container.
        id: String,
        /// Its first process.
        pid: i32,
    },
    /// The kernel killed a process in it for want of memory.
    OutOfMemory {
        /// The container.
        id: String,
    },
    /// The guest ended.
    Exited {
        /// The container.
        id: String,
        /// Its first process.
        pid: i32,
        /// How.
        exit: Exit,
    },
    /// Nothing is left of it.
    Deleted {
        /// The container.
        id: String,
        /// What its first process was.
        pid: i32,
        /// How that ended.
        exit: Exit,
    },
}

/// Takes events in their order and never makes the teller wait.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn send(&self, event: Event);
}
