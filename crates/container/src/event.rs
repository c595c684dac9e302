//! What happens to a container, told in order.

use wherry_sandbox::process::Exit;
use wherry_sandbox::stdio::StdioPaths;

/// Something that happened to the container `id`, or to the process `exec_id` in it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container.
    pub id: String,
    /// The process; empty for the first one, and for what concerns the container as a whole.
    pub exec_id: String,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// The container exists.
    Created {
        /// Its bundle.
        bundle: String,
        /// The mounts of its root filesystem.
        rootfs: Vec<wherry_sandbox::Mount>,
        /// Its streams.
        stdio: StdioPaths,
        /// Whether they are a terminal.
        terminal: bool,
        /// Its first process.
        pid: i32,
    },
    /// Another process was asked for.
    ExecAdded,
    /// The process runs.
    Started {
        /// Its pid.
        pid: i32,
    },
    /// All processes are frozen.
    Paused,
    /// They go on.
    Resumed,
    /// The kernel killed a process for want of memory.
    OutOfMemory,
    /// The process ended.
    Exited {
        /// What its pid was.
        pid: i32,
        /// How.
        exit: Exit,
    },
    /// Nothing is left of the container.
    Deleted {
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
