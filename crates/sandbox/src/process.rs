//! Processes: their ends, and signals to them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
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

    /// The process of a pid that has been sent to the daemon as that of a new process of a container.
    ///
    /// Proven is that it is a child of the daemon (waitid(2)), which no one else waits for, other than `host`, and not
    /// older than the request, by its start time in `/proc/PID/stat`. A child that has ended and was collected before its
    /// pid arrived is one of those that the reaper keeps for this. No child is collected while this looks at it.
    pub(crate) fn new_child(
        &self,
        number: i32,
        host: Option<Pid>,
        since: Ticks,
    ) -> Result<Process, NotNew> {
        let pid = Pid::new(number).ok_or(NotNew::Number(number))?;
        if cfg!(fuzzing) {
            // The fuzzer's engine host forks no process.
            return Ok(Process { pid: number, pidfd: None });
        }
        let table = self.lock();
        if host == Some(pid) || table.waiting.contains_key(&number) {
            return Err(NotNew::Taken(pid));
        }
        if !is_child(number) {
            let known = table.unclaimed.iter().any(|(ended, _)| *ended == number);
            return if known {
                Ok(Process { pid: number, pidfd: None })
            } else {
                Err(NotNew::Stranger(pid))
            };
        }
        let process = Process::new(number);
        match process.look(Ticks::of) {
            Ok(start) if start >= since => Ok(process),
            Ok(_) => Err(NotNew::Old(pid)),
            Err(_) => Err(NotNew::Ended(pid)),
        }
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

/// A pid that names one process. 0 and negative numbers name groups of processes, and 1 is the init process: none of them
/// is ever a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pid(i32);

impl Pid {
    /// None for a number that does not name one process, or names the init process.
    #[must_use]
    pub fn new(number: i32) -> Option<Pid> {
        (number > 1).then_some(Pid(number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment, in clock ticks since the machine was started: the unit of a process's start time in `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    /// This moment, rounded down as the kernel rounds a start time.
    pub(crate) fn now() -> io::Result<Ticks> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let rate = sysconf(SysconfVar::CLK_TCK)?.and_then(|rate| u64::try_from(rate).ok());
        let rate = rate.filter(|rate| *rate > 0).unwrap_or(100);
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
        Ok(Ticks(seconds * rate + nanos / (1_000_000_000 / rate).max(1)))
    }

    /// When the process of this `/proc/PID` directory was started.
    fn of(directory: &Path) -> io::Result<Ticks> {
        let stat = std::fs::read(directory.join("stat"))?;
        // The fields stand behind the name, which may hold anything: the state is the third, the start time the 22nd.
        let fields = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
        let field = String::from_utf8_lossy(fields);
        let start = field.split_whitespace().nth(19).and_then(|field| field.parse().ok());
        start.map(Ticks).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Why a pid that was sent to the daemon is not that of a new process of a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotNew {
    /// It cannot be a container's.
    #[error("{0} is not a pid that a container can have")]
    Number(i32),
    /// The daemon has another use for the process, or another container has.
    #[error("process {0} belongs to something else")]
    Taken(Pid),
    /// The daemon is not its parent.
    #[error("process {0} is not a child of the shim")]
    Stranger(Pid),
    /// It was started before the request.
    #[error("process {0} is older than the request")]
    Old(Pid),
    /// It has ended.
    #[error("process {0} has ended")]
    Ended(Pid),
}

/// Whether there is such a child, living or to be collected.
fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags).is_ok()
}

/// A process that can be signalled and looked at without meeting another that got its number.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// None: it was gone before its pidfd could be opened.
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
    /// Opens the pidfd of process `pid`. A child that [`Reaper`] may collect must not have been collected yet, or the
    /// process may be another one of the same number.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn new(pid: i32) -> Process {
        let pidfd = Pid::new(pid).and_then(|pid| {
            // SAFETY: takes two integers and makes a descriptor or fails.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.number(), 0) };
            let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
            // SAFETY: the kernel has just made it for us.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        Process { pid, pidfd }
    }

    /// Its pid in the daemon's namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has ended, also when it has not been collected yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        // It becomes readable with the end of the process.
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Reads what `/proc/PID` says of it: `look` is given that directory. The pid cannot have become another process's
    /// meanwhile: it is only free once the process has been collected, which the pidfd shows afterwards.
    ///
    /// # Errors
    /// Those of `look`; [`io::ErrorKind::NotFound`] when the process has ended and been collected.
    pub fn look<T>(&self, look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let found = look(&PathBuf::from(format!("/proc/{}", self.pid)));
        match self.signal(0) {
            Ok(()) => found,
            Err(_) => {
                let text = format!("process {} has ended", self.pid);
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
        }
    }

    /// Sends `signal`; 0 sends nothing, but fails as any other would.
    ///
    /// # Errors
    /// [`SignalError::Gone`] once the process has ended and been collected.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: the reaper would reap the children of other tests.
    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "the reaper waits for them")]
    async fn an_exit_is_told_whether_asked_for_before_or_after() {
        if !crate::alone("process::tests::an_exit_is_told_whether_asked_for_before_or_after") {
            return;
        }
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
        assert!(!process.has_ended());
        process.signal(15).unwrap();
        assert_eq!(exit.await.unwrap().status, 143);
        assert!(process.has_ended());
        assert_eq!(process.signal(15), Err(SignalError::Gone));
        assert_eq!(process.signal(4000), Err(SignalError::Unknown(4000)));
        let looked = process.look(|_| Ok(()));
        assert_eq!(looked.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_number_of_many_processes_or_of_the_first_is_no_pid() {
        for number in [i32::MIN, -2, -1, 0, 1] {
            assert_eq!(Pid::new(number), None);
            let process = Process::new(number);
            assert_eq!(process.signal(0), Err(SignalError::Gone), "{number}");
        }
        assert_eq!(Pid::new(2).map(Pid::number), Some(2));
    }

    #[test]
    fn only_a_young_child_that_has_no_other_use_is_new() {
        let before = Ticks::now().unwrap();
        let reaper = Reaper::default();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let new = |pid, host, since| reaper.new_child(pid, host, since).map(|new| new.pid());
        assert_eq!(new(pid, None, before).unwrap(), pid);
        assert!(matches!(new(pid, Pid::new(pid), before), Err(NotNew::Taken(_))));
        let later = Ticks(before.0 + 1_000_000);
        assert!(matches!(new(pid, None, later), Err(NotNew::Old(_))));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(new(own, None, before), Err(NotNew::Stranger(_))));
        for number in [-1, 0, 1] {
            assert!(matches!(new(number, None, before), Err(NotNew::Number(_))), "{number}");
        }
        let _exit = reaper.wait(pid);
        assert!(matches!(new(pid, None, before), Err(NotNew::Taken(_))));
        child.kill().unwrap();
        child.wait().unwrap();
        reaper.lock().waiting.clear();
        assert!(matches!(new(pid, None, before), Err(NotNew::Stranger(_))));
        reaper.lock().unclaimed.push_back((pid, Exit::now(0)));
        assert_eq!(new(pid, None, before).unwrap(), pid);
    }
}
