//! Where a guest runs: its bundle, root filesystem, cgroup and standard streams, and the engine
//! host that forks it.
//!
//! This is the one crate that talks to the kernel. The daemon's side of a container's life is in
//! [`launch`] (create, start), [`making`] (who waits for whom), [`process`] (signals, exits), [`stdio`],
//! [`terminal`], [`cgroup`] and [`cleanup`], [`compiler`], [`digest`] and [`layer`] (compiled code), [`cancel`] (a Create that
//! is not wanted any more), the programs that a configuration has run on the way in [`hooks`], and its own in [`daemon`] and [`mod@log`]; the engine host's side
//! is in [`host`]; [`protocol`] is what the two say to each
//! other.

pub mod bundle;
pub mod cancel;
pub mod cgroup;
pub mod check;
mod child;
pub mod cleanup;
pub mod compiler;
pub mod config;
pub mod daemon;
pub mod digest;
mod events;
mod explain;
pub mod hooks;
pub mod host;
pub mod launch;
pub mod layer;
pub mod log;
pub mod logfile;
pub mod making;
pub mod memory;
pub mod process;
pub mod protocol;
pub mod readonly;
mod records;
pub mod socket;
pub mod stdio;
mod talk;
pub mod terminal;
pub mod thread;

pub use bundle::Bundle;
pub use cgroup::Cgroup;
pub use protocol::{Failure, FailureKind, Mount};

/// Whether this is the process that the test `name` has for itself. In the process of all tests, runs that one and returns false:
/// what a test does to its process (reaps all children, or needs descriptors that no forked child holds) is not for the others.
#[cfg(test)]
pub(crate) fn alone(name: &str) -> bool {
    const ALONE: &str = "WHERRY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", name]).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}
