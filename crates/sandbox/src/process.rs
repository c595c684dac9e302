//! Processes: their ends, and signals to them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, or 128 plus the signal that killed it.
    pub status: u32,
    /// When we learnt of it.
    pub at: SystemTime,
}

impl Exit {
    /// An end at this moment.
    #[must_use]
    pub fn now(status: u32) -> Exit {
        Exit { status, at: SystemTime::now() }
    }
}

/// The exit status of a child of this process, or 128 plus the signal that killed it.
pub(crate) fn status_of(status: ExitStatus) -> u32 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255)
}

/// Collects the daemon's children. All of them end here: guests, the processes that libcontainer
/// forks on the way to one, engine hosts and compilers.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Those that nobody waited for yet. A process may end before its pid has been told to
    /// whoever will ask.
    unclaimed: VecDeque<(i32, Exit)>,
}

/// More than can end between a fork and the question for it.
const UNCLAIMED_MAX: usize = 1024;

impl Reaper {
    /// Starts to collect. Must be called within the runtime, once.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn start() -> io::Result<Reaper> {
        let reaper = Reaper::default();
        let mut children = signal(SignalKind::child())?;
        let task = reaper.clone();
        tokio::spawn(async move {
            loop {
                task.collect();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Waits for the end of the child `pid`. Each child is asked for once at most.
    #[must_use]
    pub fn wait(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        let known = table.unclaimed.iter().rposition(|(ended, _)| *ended == pid);
        match known.and_then(|index| table.unclaimed.remove(index)) {
            // What is known of a child that is there to be collected was another's, of the same
            // number.
            Some((_, exit)) if !is_child(pid) => {
                let _ = sender.send(exit);
            }
            _ => {
                table.waiting.insert(pid, sender);
            }
        }
        receiver
    }

    fn collect(&self) {
        loop {
            // Collected and noted in one step for whoever asks.
            let mut table = self.lock();
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                // A stop or continue is no end, and an interrupted call is made again.
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => {
                    log::error!("cannot wait for children: {errno}");
                    return;
                }
            };
            let exit = Exit::now(u32::try_from(status).unwrap_or(255));
            match table.waiting.remove(&pid.as_raw()) {
                Some(sender) => {
                    let _ = sender.send(exit);
                }
                None => {
                    if table.unclaimed.len() == UNCLAIMED_MAX {
                        table.unclaimed.pop_front();
                    }
                    table.unclaimed.push_back((pid.as_raw(), exit));
                }
            }
        }
    }

    /// No code panics while it holds this lock, and the table is whole at every step.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a process is gone, or waits to be collected.
pub(crate) fn has_ended(pid: i32) -> bool {
    // The state stands behind the name, which may hold anything.
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return true };
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|rest| rest.get(1));
    matches!(state, Some(b'Z' | b'X'))
}

/// Whether there is such a child, living or to be collected.
fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid)), flags).is_ok()
}

/// A process that can be signalled without hitting another that got its number.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// None: it was gone before we could take hold of it.
    pidfd: Option<OwnedFd>,
}

/// There is no such process any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// It has ended.
    #[error("the process has ended")]
    Gone,
    /// The kernel knows no such signal.
    #[error("there is no signal {0}")]
    Unknown(u32),
    /// Something else.
    #[error("cannot send the signal: {0}")]
    Other(Errno),
}

impl Process {
    /// Takes hold of a child that has not been asked for with [`Reaper::wait`] by anybody else.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn new(pid: i32) -> Process {
        // SAFETY: takes two integers and makes a descriptor or fails.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let pidfd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| {
            // SAFETY: the kernel has just made it for us.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        Process { pid, pidfd }
    }

    /// Its pid in the daemon's namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// [`SignalError::Gone`] once the process has ended.
    #[allow(unsafe_code)]
    pub fn signal(&self, signal: u32) -> Result<(), SignalError> {
        let number = i32::try_from(signal)
            .ok()
            .filter(|number| (0..=libc::SIGRTMAX()).contains(number))
            .ok_or(SignalError::Unknown(signal))?;
        let pidfd = self.pidfd.as_ref().ok_or(SignalError::Gone)?;
        // SAFETY: a descriptor that is open, an integer, no siginfo, no flags.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) => Ok(()),
            Err(Errno::ESRCH) => Err(SignalError::Gone),
            Err(errno) => Err(SignalError::Other(errno)),
        }
    }
}

/// Sends `signal` to each of `pids`. Those that are gone already need none.
#[allow(unsafe_code)]
pub fn signal_each(pids: &[i32], signal: i32) {
    for pid in pids {
        // SAFETY: takes two integers. (nix knows no real-time signals.)
        unsafe { libc::kill(*pid, signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "the reaper waits for them")]
    async fn an_exit_is_told_whether_asked_for_before_or_after() {
        let reaper = Reaper::start().unwrap();
        let early = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pid = i32::try_from(early.id()).unwrap();
        // Ended and collected before anybody asks.
        while !reaper.lock().unclaimed.iter().any(|(ended, _)| *ended == pid) {
            tokio::task::yield_now().await;
        }
        assert_eq!(reaper.wait(pid).await.unwrap().status, 7);

        // Its number was an earlier child's, whom nobody has asked for.
        let late = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::new(i32::try_from(late.id()).unwrap());
        reaper.lock().unclaimed.push_back((process.pid(), Exit::now(1)));
        let exit = reaper.wait(process.pid());
        process.signal(15).unwrap();
        assert_eq!(exit.await.unwrap().status, 143);
        assert_eq!(process.signal(15), Err(SignalError::Gone));
        assert_eq!(process.signal(4000), Err(SignalError::Unknown(4000)));
    }
}
