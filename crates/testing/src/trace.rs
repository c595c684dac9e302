//! The system calls of running processes, as strace records them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd::Containerd;
use crate::wait::{DEADLINE, wait_until};

/// Processes that are traced, with all their descendants, until this value is dropped.
pub struct Trace {
    strace: Child,
    path: PathBuf,
}

impl Trace {
    /// Traces processes from now on. `options` are strace's; its output is a file in a folder of
    /// `containerd`.
    pub fn attach(containerd: &Containerd, pids: &[i32], options: &[&str]) -> Trace {
        let path = containerd.root().join(format!("trace-{}", containerd.new_id()));
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--quiet=all", "--output"]).arg(&path).args(options);
        command.args(pids.iter().map(|pid| format!("--attach={pid}"))).stdin(Stdio::null());
        let trace = Trace { strace: command.spawn().expect("strace runs"), path };
        wait_until("strace to attach", DEADLINE, || pids.iter().all(|&pid| is_traced(pid)));
        trace
    }

    /// The output of strace so far, a line for each call.
    pub fn lines(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }
}

/// The time that strace has to detach.
const DETACH: Duration = Duration::from_secs(10);

impl Drop for Trace {
    fn drop(&mut self) {
        // On SIGINT strace detaches from the processes. It waits forever if one of them is in
        // vfork(2) just then; at the end of strace the kernel detaches.
        let pid = i32::try_from(self.strace.id()).expect("a pid");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let begin = Instant::now();
        while begin.elapsed() < DETACH && matches!(self.strace.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether all threads of a process are traced.
fn is_traced(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("status"))).all(|status| {
        let status = status.unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}
