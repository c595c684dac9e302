//! An RCU grace period ahead of time, for a process that systemd will move into a cgroup.

use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use crate::{Cgroup, is_unified};

/// Starts an RCU grace period in the background.
///
/// A write to `cgroup.procs` waits until no processor can be in the middle of a fork, which the
/// kernel learns from an RCU grace period: some ten milliseconds. A move that comes while another
/// one waits, or shortly after, shares the same period. So this process moves to the cgroup that it
/// is in already, while containerd still does something else.
///
/// A process that joins a cgroup without waiting (`tasks`, `CLONE_INTO_CGROUP`) would be held up by
/// this. Must not be called by a process that is about to be moved itself.
pub fn start_grace_period() {
    static WAITING: AtomicBool = AtomicBool::new(false);
    if !is_unified() || WAITING.swap(true, Ordering::Relaxed) {
        return;
    }
    let moved = thread::Builder::new().name("cgroup".to_owned()).spawn(|| {
        let moved = move_in_place();
        WAITING.store(false, Ordering::Relaxed);
        moved
    });
    // Without this thread the move by systemd takes longer.
    if moved.is_err() {
        WAITING.store(false, Ordering::Relaxed);
    }
}

fn move_in_place() -> Option<()> {
    let own = Cgroup::of(std::process::id().cast_signed())?;
    // The write waits for the grace period also if the kernel refuses the move.
    fs::write(own.directory("")?.join("cgroup.procs"), "0").ok()
}
