//! Processes: pids, pidfds, signals and exit statuses.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::handover::{Descriptor, Incoming, Outgoing, ResumeError};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status, or 128 plus the signal that killed the process.
    pub status: u32,
    /// When this process reaped it.
    pub at: SystemTime,
}

impl Exit {
    /// An exit at this moment.
    #[must_use]
    pub fn now(status: u32) -> Exit {
        Exit { status, at: SystemTime::now() }
    }
}

/// The exit status of a child of this process, or 128 plus the signal that killed it.
#[must_use]
pub fn status_of(status: ExitStatus) -> u32 {
    // The format of wait(2): the signal in bits 0 to 6, the exit status in bits 8 to 15.
    let raw = status.into_raw().cast_unsigned();
    match raw & 0x7f {
        0 => (raw >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// A pid that names one process of a container. 0 and negative numbers name process groups, and 1
/// is the init process: `kill` with one of them would hit others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pid(i32);

impl Pid {
    /// Returns None for a number that names no single process, or names the init process.
    #[must_use]
    pub fn new(number: i32) -> Option<Pid> {
        (number > 1).then_some(Pid(number))
    }

    /// The pid of a child of this process: never 1, because a child is never the init process of
    /// its parent's pid namespace.
    #[must_use]
    pub fn of(child: &Child) -> Pid {
        Pid(child.id().cast_signed())
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

/// A moment, in clock ticks since boot: the unit of a process's start time in `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(u64);

impl Ticks {
    /// This moment, rounded down as the kernel rounds a start time.
    ///
    /// # Errors
    /// If the kernel has no boot clock, or the C library does not know the rate of its ticks.
    pub fn now() -> io::Result<Ticks> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
        let rate = sysconf(SysconfVar::CLK_TCK)?.and_then(|rate| u64::try_from(rate).ok());
        let rate = rate
            .filter(|rate| *rate > 0)
            .ok_or_else(|| io::Error::other("sysconf(_SC_CLK_TCK) returned no rate"))?;
        let nanos = u64::from(now.subsec_nanos());
        Ok(Ticks(now.as_secs() * rate + nanos / (1_000_000_000 / rate).max(1)))
    }

    /// This moment plus some ticks.
    #[cfg(test)]
    pub(crate) fn after(self, ticks: u64) -> Ticks {
        Ticks(self.0 + ticks)
    }

    /// Reads the start time of the process of this `/proc/PID` directory.
    pub(crate) fn of(directory: &Path) -> io::Result<Ticks> {
        let stat = std::fs::read(directory.join("stat"))?;
        // Field 2, the name, may contain anything, so the fields after the last ')' are counted:
        // field 3 is the state, field 22 the start time. See proc_pid_stat(5).
        let start = stat.rsplit(|byte| *byte == b')').next().and_then(|fields| {
            String::from_utf8_lossy(fields).split_whitespace().nth(19)?.parse().ok()
        });
        start.map(Ticks).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A process, held by a pidfd, so that a signal never reaches another process with the same pid.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// None if the process was reaped before its pidfd could be opened.
    pidfd: Option<OwnedFd>,
}

/// A process in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedProcess {
    pid: i32,
    pidfd: Option<Descriptor>,
}

/// Why a signal could not be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// The process has ended and was reaped.
    #[error("the process has ended")]
    Gone,
    /// The kernel has no signal of this number.
    #[error("invalid signal {0}: signals are 1 to 64")]
    Unknown(u32),
    /// Any other error of `pidfd_send_signal(2)`.
    #[error("cannot send the signal: {0}")]
    Other(Errno),
}

impl Process {
    /// Opens a pidfd of process `pid`. A child must not have been reaped yet: its pid could name
    /// another process.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn new(pid: i32) -> Process {
        let pidfd = Pid::new(pid).and_then(|pid| {
            // SAFETY: takes two integers; returns a descriptor or an error.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.number(), 0) };
            let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
            // SAFETY: the kernel has just opened it for this call.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        Process { pid, pidfd }
    }

    /// The process, for the next version of this executable.
    pub fn save(&self, out: &mut Outgoing) -> SavedProcess {
        SavedProcess { pid: self.pid, pidfd: self.pidfd.as_ref().map(|fd| out.add(fd)) }
    }

    /// The process of [`Process::save`].
    ///
    /// # Errors
    /// If its descriptor did not come along.
    pub fn restore(saved: &SavedProcess, from: &mut Incoming) -> Result<Process, ResumeError> {
        let pidfd = saved.pidfd.map(|fd| from.take(fd)).transpose()?;
        Ok(Process { pid: saved.pid, pidfd })
    }

    /// A process that was reaped.
    #[must_use]
    pub(crate) fn reaped(pid: i32) -> Process {
        Process { pid, pidfd: None }
    }

    /// The pid in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the process has ended, reaped or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        // A pidfd becomes readable when its process ends.
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Reads from `/proc/PID`, whose path `read` gets. The kernel reuses a pid only after the reap;
    /// the pidfd shows afterwards that the process was not reaped meanwhile.
    ///
    /// # Errors
    /// Those of `read`; [`io::ErrorKind::NotFound`] if the process was reaped.
    pub fn inspect<T>(&self, read: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let result = read(&PathBuf::from(format!("/proc/{}", self.pid)));
        match self.signal(0) {
            Ok(()) => result,
            Err(_) => {
                let text = format!("process {} has ended", self.pid);
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
        }
    }

    /// Sends `signal`. 0 sends nothing and fails as any other signal would.
    ///
    /// # Errors
    /// [`SignalError::Gone`] once the process was reaped.
    #[allow(unsafe_code)]
    pub fn signal(&self, signal: u32) -> Result<(), SignalError> {
        let number = i32::try_from(signal)
            .ok()
            .filter(|number| (0..=libc::SIGRTMAX()).contains(number))
            .ok_or(SignalError::Unknown(signal))?;
        let pidfd = self.pidfd.as_ref().ok_or(SignalError::Gone)?;
        // SAFETY: an open descriptor, an integer, no siginfo, no flags.
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
    fn a_killed_process_has_the_exit_status_of_a_shell() {
        let status = |script: &str| {
            let mut command = std::process::Command::new("sh");
            status_of(command.args(["-c", script]).status().unwrap())
        };
        assert_eq!(status("exit 0"), 0);
        assert_eq!(status("exit 255"), 255);
        assert_eq!(status("kill -9 $$"), 137);
        assert_eq!(status("kill -15 $$"), 143);
    }

    #[test]
    fn a_start_time_is_read_behind_any_name_of_a_process() {
        let directory = tempfile::tempdir().unwrap();
        let fields: Vec<String> = (3..53).map(|field| field.to_string()).collect();
        for name in ["sh", "a) S 1 (b", "x\ny"] {
            let stat = format!("7 ({name}) {}", fields.join(" "));
            std::fs::write(directory.path().join("stat"), stat).unwrap();
            assert_eq!(Ticks::of(directory.path()).unwrap(), Ticks(22), "{name:?}");
        }
        std::fs::write(directory.path().join("stat"), "7 (sh) S 1").unwrap();
        assert_eq!(Ticks::of(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_process_that_has_ended_takes_signals_until_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::new(i32::try_from(child.id()).unwrap());
        assert!(!process.has_ended());
        child.kill().unwrap();
        while !process.has_ended() {
            std::thread::yield_now();
        }
        assert_eq!(process.signal(9), Ok(()));
        assert!(process.inspect(Ticks::of).is_ok());
        child.wait().unwrap();
        assert_eq!(process.signal(9), Err(SignalError::Gone));
        assert_eq!(process.inspect(Ticks::of).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_signal_number_that_does_not_exist_is_named() {
        let process = Process::new(i32::try_from(std::process::id()).unwrap());
        for number in [65, 4000, u32::MAX] {
            let text = process.signal(number).unwrap_err().to_string();
            assert_eq!(text, format!("invalid signal {number}: signals are 1 to 64"));
        }
    }
}
