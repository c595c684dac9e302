//! The reaper: the exit of every child of this process.
//!
//! All children of a daemon end here: guests, the processes that libcontainer forks on the way to
//! one, engine hosts and compilers. The reaper has no thread and no runtime: its owner calls
//! [`Reaper::reap`] after each SIGCHLD.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};

use crate::process::{Exit, Pid, Process, Ticks};

/// Reaps the children of this process and passes each exit to the one caller that waits for it.
/// Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

/// Runs once, while the table is locked: it must not block or call the reaper.
type Callback = Box<dyn FnOnce(Exit) + Send>;

#[derive(Default)]
struct Table {
    waiting: HashMap<i32, Callback>,
    /// Exits without a waiter, oldest first. A process may end before its pid reaches the caller
    /// that will wait for it.
    unclaimed: VecDeque<(i32, Exit)>,
    /// No child is reaped: see [`Reaper::suspend`].
    suspended: bool,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("waiting", &self.waiting.keys())
            .field("unclaimed", &self.unclaimed)
            .finish()
    }
}

/// More exits than can happen between a fork and the wait for the forked process.
const UNCLAIMED_MAX: usize = 1024;

/// Why a pid that a guest or an engine host sent is not accepted as a new process of a container.
#[derive(Debug, thiserror::Error)]
pub enum NotNew {
    /// No container's process can have it.
    #[error("a container cannot have pid {0}")]
    Number(i32),
    /// It is the engine host, or another container's process.
    #[error("process {0} is in use already")]
    Taken(Pid),
    /// This process is not its parent.
    #[error("process {0} is not a child of the shim")]
    Stranger(Pid),
    /// It was started before the request.
    #[error("process {0} is older than the request")]
    Old(Pid),
    /// It has ended.
    #[error("process {0} has ended")]
    Ended(Pid),
}

impl Reaper {
    /// Calls `callback` with the exit of child `pid`, at once if the child was reaped already. At
    /// most one callback per child. It must not block and must not call the reaper.
    pub fn on_exit(&self, pid: i32, callback: impl FnOnce(Exit) + Send + 'static) {
        let mut table = self.lock();
        let known = table.unclaimed.iter().rposition(|(ended, _)| *ended == pid);
        match known.and_then(|index| table.unclaimed.remove(index)) {
            // If such a child still waits to be reaped, the unclaimed exit is that of an earlier
            // child with the same pid.
            Some((_, exit)) if !is_child(pid) => callback(exit),
            _ => {
                table.waiting.insert(pid, Box::new(callback));
            }
        }
    }

    /// As [`Reaper::on_exit`], with a channel. The channel closes without an exit only when the
    /// reaper is dropped.
    #[must_use]
    pub fn exit_of(&self, pid: i32) -> Receiver<Exit> {
        let (sender, receiver) = channel();
        self.on_exit(pid, move |exit| {
            // The caller may have stopped waiting.
            let _ = sender.send(exit);
        });
        receiver
    }

    /// Validates the pid that was sent to this process as that of a new process of a container.
    ///
    /// Accepts a child of this process (waitid(2)) that has no waiter, is not `host`, and is not
    /// older than `since`, by its start time in `/proc/PID/stat`. A child that was reaped before
    /// its pid arrived is among the unclaimed ones. No child is reaped meanwhile, because this
    /// function holds the lock of the table.
    ///
    /// # Errors
    /// [`NotNew`] with the reason.
    pub fn new_child(
        &self,
        number: i32,
        host: Option<Pid>,
        since: Ticks,
    ) -> Result<Process, NotNew> {
        let pid = Pid::new(number).ok_or(NotNew::Number(number))?;
        if cfg!(fuzzing) {
            // The fuzzer's engine host forks no process.
            return Ok(Process::reaped(number));
        }
        let table = self.lock();
        if host == Some(pid) || table.waiting.contains_key(&number) {
            return Err(NotNew::Taken(pid));
        }
        if !is_child(number) {
            let known = table.unclaimed.iter().any(|(ended, _)| *ended == number);
            return if known { Ok(Process::reaped(number)) } else { Err(NotNew::Stranger(pid)) };
        }
        let process = Process::new(number);
        match process.inspect(Ticks::of) {
            Ok(start) if start >= since => Ok(process),
            Ok(_) => Err(NotNew::Old(pid)),
            Err(_) => Err(NotNew::Ended(pid)),
        }
    }

    /// Reaps every child that has ended. Never blocks.
    pub fn reap(&self) {
        loop {
            // Reap and record in one step: between the two, `on_exit` would see neither.
            let mut table = self.lock();
            if table.suspended {
                return;
            }
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code.cast_unsigned()),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, 128 + (signal as i32).unsigned_abs())
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                // A stop or a continue is not an exit; an interrupted call is repeated.
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => {
                    log::error!("cannot wait for children: {errno}");
                    return;
                }
            };
            let exit = Exit::now(status);
            match table.waiting.remove(&pid.as_raw()) {
                Some(callback) => callback(exit),
                None => {
                    if table.unclaimed.len() == UNCLAIMED_MAX {
                        table.unclaimed.pop_front();
                    }
                    table.unclaimed.push_back((pid.as_raw(), exit));
                }
            }
        }
    }

    /// Leaves every child that ends unreaped until the result is dropped, or for the next version
    /// of this executable: a child outlives execve(2).
    #[must_use]
    pub fn suspend(&self) -> SuspendedReaper {
        self.lock().suspended = true;
        SuspendedReaper(self.clone())
    }

    /// Passes on an exit as if the child had been reaped. For tests.
    #[doc(hidden)]
    pub fn simulate_exit(&self, pid: i32, exit: Exit) {
        let callback = self.lock().waiting.remove(&pid);
        if let Some(callback) = callback {
            callback(exit);
        }
    }

    /// The table is consistent at every step, also after a panic of a callback.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reaps no child. Dropping this reaps those that have ended meanwhile.
#[derive(Debug)]
pub struct SuspendedReaper(Reaper);

impl Drop for SuspendedReaper {
    fn drop(&mut self) {
        self.0.lock().suspended = false;
        self.0.reap();
    }
}

/// Whether `pid` is a child of this process, running or waiting to be reaped.
fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::SignalError;
    use std::io;
    use std::process::Command;
    use std::thread::yield_now;

    /// Waits for an exit, reaping meanwhile.
    fn reap_until(reaper: &Reaper, exit: &Receiver<Exit>) -> Exit {
        loop {
            reaper.reap();
            if let Ok(exit) = exit.try_recv() {
                return exit;
            }
            yield_now();
        }
    }

    /// In a separate process: the reaper would reap the children of other tests.
    #[test]
    #[expect(clippy::zombie_processes, reason = "the reaper waits for them")]
    fn an_exit_is_told_whether_asked_for_before_or_after() {
        if !crate::alone("reaper::tests::an_exit_is_told_whether_asked_for_before_or_after") {
            return;
        }
        let reaper = Reaper::default();
        let early = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pid = i32::try_from(early.id()).unwrap();
        // Ended and reaped before the wait.
        while !reaper.lock().unclaimed.iter().any(|(ended, _)| *ended == pid) {
            reaper.reap();
            yield_now();
        }
        assert_eq!(reaper.exit_of(pid).try_recv().unwrap().status, 7);

        // An earlier child with the same pid, whose exit was never claimed.
        let late = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::new(i32::try_from(late.id()).unwrap());
        reaper.lock().unclaimed.push_back((process.pid(), Exit::now(1)));
        let exit = reaper.exit_of(process.pid());
        assert!(!process.has_ended());
        process.signal(15).unwrap();
        assert_eq!(reap_until(&reaper, &exit).status, 143);
        assert!(process.has_ended());
        assert_eq!(process.signal(15), Err(SignalError::Gone));
        assert_eq!(process.signal(4000), Err(SignalError::Unknown(4000)));
        let inspected = process.inspect(|_| Ok(()));
        assert_eq!(inspected.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// In a separate process, as above.
    #[test]
    #[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
    fn a_child_that_ends_while_the_reaper_is_suspended_is_reaped_afterwards() {
        let name =
            "reaper::tests::a_child_that_ends_while_the_reaper_is_suspended_is_reaped_afterwards";
        if !crate::alone(name) {
            return;
        }
        let reaper = Reaper::default();
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let process = Process::new(i32::try_from(child.id()).unwrap());
        let exit = reaper.exit_of(process.pid());
        let suspended = reaper.suspend();
        while !process.has_ended() {
            yield_now();
        }
        reaper.reap();
        assert!(exit.try_recv().is_err() && is_child(process.pid()));
        drop(suspended);
        assert_eq!(exit.try_recv().unwrap().status, 7);
    }

    #[test]
    fn only_a_young_child_that_has_no_other_use_is_new() {
        let before = Ticks::now().unwrap();
        let reaper = Reaper::default();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let new = |pid, host, since| reaper.new_child(pid, host, since).map(|new| new.pid());
        assert_eq!(new(pid, None, before).unwrap(), pid);
        assert!(matches!(new(pid, Pid::new(pid), before), Err(NotNew::Taken(_))));
        let later = before.after(1_000_000);
        assert!(matches!(new(pid, None, later), Err(NotNew::Old(_))));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(new(own, None, before), Err(NotNew::Stranger(_))));
        for number in [-1, 0, 1] {
            assert!(matches!(new(number, None, before), Err(NotNew::Number(_))), "{number}");
        }
        let _exit = reaper.exit_of(pid);
        assert!(matches!(new(pid, None, before), Err(NotNew::Taken(_))));
        child.kill().unwrap();
        child.wait().unwrap();
        reaper.lock().waiting.clear();
        assert!(matches!(new(pid, None, before), Err(NotNew::Stranger(_))));
        reaper.lock().unclaimed.push_back((pid, Exit::now(0)));
        assert_eq!(new(pid, None, before).unwrap(), pid);
    }
}
