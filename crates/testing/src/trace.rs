//! The system calls of running processes, as strace tells them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd::Containerd;
use crate::wait::{DEADLINE, wait_until};

/// Processes that are watched, with all that they make meanwhile, until this is dropped.
pub struct Trace {
    strace: Child,
    path: PathBuf,
}

impl Trace {
    /// Watches processes from now on. `options` are strace's own; its lines are kept in a folder of `containerd`.
    pub fn attach(containerd: &Containerd, pids: &[i32], options: &[&str]) -> Trace {
        let path = containerd.root().join(format!("trace-{}", containerd.new_id()));
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--quiet=all", "--output"]).arg(&path).args(options);
        command.args(pids.iter().map(|pid| format!("--attach={pid}"))).stdin(Stdio::null());
        let trace = Trace { strace: command.spawn().expect("strace runs"), path };
        wait_until("strace to attach", DEADLINE, || pids.iter().all(|&pid| is_traced(pid)));
        trace
    }

    /// What strace has written so far, a line for each call.
    pub fn lines(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // On an interrupt it lets go of the processes; a kill would take them with it.
        let pid = i32::try_from(self.strace.id()).expect("a pid");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let _ = self.strace.wait();
    }
}

/// Whether all threads of a process are watched.
fn is_traced(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("status"))).all(|status| {
        let status = status.unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}
