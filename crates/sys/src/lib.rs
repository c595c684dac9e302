//! Kernel objects that the daemon, the engine host and the compiler use alike.
//!
//! - [`process`]: pids, pidfds, signals and exit statuses. [`reaper`]: the exit of every child of
//!   this process. [`child`]: a helper process whose output and exit status one caller waits for.
//! - [`daemon`]: fork into the background, `oom_score_adj`. [`socket`]: the daemon's socket.
//! - [`readonly`]: read-only bind mounts from which executables and compiled code are opened.
//! - [`namespaces`]: the owner of a namespace, and the fork of a pid namespace's first process.
//! - [`memory`]: the heap and the stack that go back to the kernel. [`logger`]: the log.
//! - [`title`]: the arguments that `ps` shows. [`measure`]: the facts that a daemon counts.
//! - [`handover`]: execve in place of this process.
//! - [`seccomp`]: seccomp filters. [`tty`], [`xattr`]: single system calls.

pub mod child;
pub mod daemon;
pub mod handover;
pub mod logger;
pub mod measure;
pub mod memory;
pub mod namespaces;
pub mod process;
pub mod readonly;
pub mod reaper;
pub mod seccomp;
pub mod socket;
pub mod title;
pub mod tty;
pub mod xattr;

/// Whether this process runs the test `name` alone. In the process of all tests, runs that test
/// in a separate process and returns false: some tests reap every child of their process, or
/// must not leave a descriptor to the children of others.
///
/// # Panics
/// If the test fails, with its output. For tests.
#[doc(hidden)]
#[must_use]
#[allow(clippy::unwrap_used)]
pub fn alone(name: &str) -> bool {
    const ALONE: &str = "WHERRY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", name]).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}
