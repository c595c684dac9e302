//! A helper process: the compiler, or the process that digests a large module.
//!
//! One caller waits for its output and its exit status, may cancel it, and kills all that it
//! leaves behind in its process group.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::process::{Exit, status_of};
use crate::reaper::Reaper;

/// The maximum length of the output, bytes: a hostile module may make the helper print endlessly.
const OUTPUT_MAX: usize = 4096;
/// The interval in which the exit, the deadline and the cancellation are checked, milliseconds.
const INTERVAL: u8 = 50;

/// How a helper process ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// By itself: the exit status, or 128 plus the signal that killed it.
    Status(u32),
    /// Killed: it ran longer than allowed.
    Late,
    /// Killed: the caller cancelled it.
    Cancelled,
    /// Unknown: this process is shutting down.
    Unknown,
}

/// Waits for `child`, which leads its process group by then, and returns how it ended and its text
/// in `output`, as one line. With a `reaper`, the exit comes from there. Calls `check` every
/// [`INTERVAL`] milliseconds with the time since the start; an error kills the process.
///
/// # Errors
/// If the pipe cannot be read.
pub fn wait(
    child: Child,
    mut output: PipeReader,
    reaper: Option<&Reaper>,
    check: &mut dyn FnMut(Duration) -> Result<(), End>,
) -> io::Result<(End, String)> {
    let pid = crate::process::Pid::of(&child).number();
    let group = Pid::from_raw(pid);
    let mut ending = match reaper {
        Some(reaper) => Ending::Reaped(reaper.exit_of(pid)),
        None => Ending::Own(child),
    };
    let start = Instant::now();
    let mut killed = None;
    let mut text = Vec::new();
    let mut buffer = [0; OUTPUT_MAX];
    loop {
        if is_readable(&output)? {
            let read = output.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            let room = OUTPUT_MAX.saturating_sub(text.len()).min(read);
            text.extend(buffer.iter().take(room));
        }
        if ending.is_known() {
            // Processes that the helper started may hold the pipe open. ESRCH: the group is empty.
            let _ = killpg(group, Signal::SIGKILL);
        } else if killed.is_none()
            && let Err(end) = check(start.elapsed())
        {
            killed = Some(end);
            // The process alone if it does not lead its group yet. ESRCH: it has just ended.
            let _ = killpg(group, Signal::SIGKILL).or_else(|_| kill(group, Signal::SIGKILL));
        }
    }
    let status = ending.status();
    let end = killed.or(status.map(End::Status)).unwrap_or(End::Unknown);
    Ok((end, String::from_utf8_lossy(&text).trim().replace('\n', " ")))
}

/// Where the exit status of the helper comes from.
enum Ending {
    Reaped(Receiver<Exit>),
    Own(Child),
    Known(u32),
}

impl Ending {
    fn is_known(&mut self) -> bool {
        let status = match self {
            Ending::Reaped(exit) => exit.try_recv().ok().map(|exit| exit.status),
            Ending::Own(child) => child.try_wait().ok().flatten().map(status_of),
            Ending::Known(_) => return true,
        };
        if let Some(status) = status {
            *self = Ending::Known(status);
        }
        status.is_some()
    }

    fn status(self) -> Option<u32> {
        match self {
            Ending::Reaped(exit) => exit.recv().ok().map(|exit| exit.status),
            Ending::Own(mut child) => child.wait().ok().map(status_of),
            Ending::Known(status) => Some(status),
        }
    }
}

/// Waits for output or its end, at most for [`INTERVAL`] milliseconds.
fn is_readable(reader: &PipeReader) -> io::Result<bool> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(INTERVAL)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn shell(script: &str, look: &mut dyn FnMut(Duration) -> Result<(), End>) -> (End, String) {
        let (reader, writer) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        let child = command.args(["-c", script]).stdout(writer).stderr(Stdio::null()).spawn();
        drop(command);
        wait(child.unwrap(), reader, None, look).unwrap()
    }

    #[test]
    fn what_a_process_says_is_kept_up_to_a_limit_and_so_is_its_status() {
        let said = shell("echo one; echo two; exit 7", &mut |_| Ok(()));
        assert_eq!(said, (End::Status(7), "one two".to_owned()));
        let (end, text) = shell("head -c 100000 /dev/zero | tr '\\0' x", &mut |_| Ok(()));
        assert_eq!((end, text.len()), (End::Status(0), OUTPUT_MAX));
    }

    #[test]
    fn a_process_that_is_not_wanted_any_more_is_killed() {
        let said = shell("echo so far; exec sleep 1000", &mut |_| Err(End::Cancelled));
        assert_eq!(said, (End::Cancelled, "so far".to_owned()));
    }
}
