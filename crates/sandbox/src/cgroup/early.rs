//! Waiting early for what the kernel makes the first move into a cgroup wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use super::Cgroup;

/// Begins to make moves of processes into cgroups quick for the next moments.
///
/// The kernel lets a process move when no processor can be in the middle of a fork any more, which it learns from an RCU
/// grace period: some ten milliseconds, several times what all else takes that makes a container. A move that comes
/// while another one waits, or shortly after, waits for the same period. So this process moves to where it is, in a thread,
/// while something else is done: the container's own move, or that of another process in it, is then waiting already.
///
/// Not to be called by a process that is about to be moved elsewhere.
pub fn wait_early() {
    static WAITING: AtomicBool = AtomicBool::new(false);
    if WAITING.swap(true, Ordering::Relaxed) {
        return;
    }
    let moved = thread::Builder::new().name("cgroup".to_owned()).spawn(|| {
        let moved = move_to_where_it_is();
        WAITING.store(false, Ordering::Relaxed);
        moved
    });
    // Without it the container's own move waits.
    if moved.is_err() {
        WAITING.store(false, Ordering::Relaxed);
    }
}

fn move_to_where_it_is() -> Option<()> {
    let own = Cgroup::of(i32::try_from(std::process::id()).unwrap_or(0))?;
    let directory = match &own {
        Cgroup::V1(directories) => directories.values().next(),
        Cgroup::V2(directory) => Some(directory),
    };
    // Where it is refused, it is after the wait.
    fs::write(directory?.join("cgroup.procs"), "0").ok()
}
