//! Waiting early for what the kernel makes systemd wait for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use super::{Cgroup, is_systemd_path, is_unified};
use crate::bundle::Bundle;

/// Begins to make moves of processes into cgroups quick for the next moments, where systemd will move one into the
/// container of this bundle.
///
/// The kernel lets a process move when no processor can be in the middle of a fork any more, which it learns from an RCU
/// grace period: some ten milliseconds. A move that comes while another one waits, or shortly after, waits for the same
/// period. So this process moves to where it is, in a thread, while something else is done. Whoever enters a cgroup
/// without waiting ([`super::without_waiting`]) would only be held up by this.
///
/// Not to be called by a process that is about to be moved elsewhere.
pub fn wait_early(bundle: &Path) {
    static WAITING: AtomicBool = AtomicBool::new(false);
    if !is_unified() || WAITING.swap(true, Ordering::Relaxed) {
        return;
    }
    let bundle = Bundle::new(bundle, "");
    let moved = thread::Builder::new().name("cgroup".to_owned()).spawn(move || {
        let systemd = name_in(&bundle).is_some_and(|path| is_systemd_path(&path));
        let moved = systemd.then(move_to_where_it_is).flatten();
        WAITING.store(false, Ordering::Relaxed);
        moved
    });
    // Without it systemd's move waits.
    if moved.is_err() {
        WAITING.store(false, Ordering::Relaxed);
    }
}

fn name_in(bundle: &Bundle) -> Option<PathBuf> {
    bundle.config().ok()?.linux?.cgroups_path
}

fn move_to_where_it_is() -> Option<()> {
    let own = Cgroup::of(i32::try_from(std::process::id()).unwrap_or(0))?;
    // Where it is refused, it is after the wait.
    fs::write(own.directory("")?.join("cgroup.procs"), "0").ok()
}
