//! A process that works for the daemon and says what came of it: the compiler, and what reads a large module.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::process::{Exit, Reaper, status_of};

/// A few sentences at most are taken, whatever the process thinks of a hostile module.
const TEXT_MAX: usize = 4096;
/// How often it is looked whether the process has ended, is late or is not wanted any more.
const LOOK: Duration = Duration::from_millis(50);

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself: the exit status, or 128 plus the signal that killed it.
    Status(u32),
    /// It was killed because it took longer than it may.
    Late,
    /// It was killed because its work is not wanted any more.
    Cancelled,
    /// It cannot be known: this process is ending itself.
    Unknown,
}

/// Waits for the end of `child`, which leads a process group by then. Returns it, and what the child has said through
/// `said`, in one line. With a `reaper`, this process's children end there. `look` is asked every few milliseconds, given
/// the time since the start, and returns whether to go on.
///
/// # Errors
/// When the pipe cannot be read.
pub(crate) fn converse(
    child: Child,
    mut said: PipeReader,
    reaper: Option<&Reaper>,
    look: &mut dyn FnMut(Duration) -> Result<(), End>,
) -> io::Result<(End, String)> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let mut ending = match reaper {
        Some(reaper) => Ending::Told(reaper.wait(pid.as_raw())),
        None => Ending::Ours(child),
    };
    let start = Instant::now();
    let mut cut = None;
    let mut text = Vec::new();
    let mut buffer = [0; TEXT_MAX];
    loop {
        if is_readable(&said, LOOK)? {
            let read = said.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            let room = TEXT_MAX.saturating_sub(text.len()).min(read);
            text.extend_from_slice(buffer.get(..room).unwrap_or_default());
        }
        if ending.is_known() {
            // Whom it has left behind holds the pipe open.
            let _ = killpg(pid, Signal::SIGKILL);
        } else if cut.is_none()
            && let Err(end) = look(start.elapsed())
        {
            cut = Some(end);
            // With all that it may have started; by itself, if it does not lead a group yet.
            let _ = killpg(pid, Signal::SIGKILL).or_else(|_| kill(pid, Signal::SIGKILL));
        }
    }
    let status = ending.status();
    let end = cut.or(status.map(End::Status)).unwrap_or(End::Unknown);
    Ok((end, String::from_utf8_lossy(&text).trim().replace('\n', " ")))
}

/// How a child's end is learnt of.
enum Ending {
    Told(oneshot::Receiver<Exit>),
    Ours(Child),
    Known(u32),
}

impl Ending {
    fn is_known(&mut self) -> bool {
        let status = match self {
            Ending::Told(receiver) => receiver.try_recv().ok().map(|exit| exit.status),
            Ending::Ours(child) => child.try_wait().ok().flatten().map(status_of),
            Ending::Known(_) => return true,
        };
        if let Some(status) = status {
            *self = Ending::Known(status);
        }
        status.is_some()
    }

    fn status(self) -> Option<u32> {
        match self {
            Ending::Told(receiver) => receiver.blocking_recv().ok().map(|exit| exit.status),
            Ending::Ours(mut child) => child.wait().ok().map(status_of),
            Ending::Known(status) => Some(status),
        }
    }
}

fn is_readable(reader: &PipeReader, within: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
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
        converse(child.unwrap(), reader, None, look).unwrap()
    }

    #[test]
    fn what_a_process_says_is_kept_up_to_a_limit_and_so_is_its_status() {
        let said = shell("echo one; echo two; exit 7", &mut |_| Ok(()));
        assert_eq!(said, (End::Status(7), "one two".to_owned()));
        let (end, text) = shell("head -c 100000 /dev/zero | tr '\\0' x", &mut |_| Ok(()));
        assert_eq!((end, text.len()), (End::Status(0), TEXT_MAX));
    }

    #[test]
    fn a_process_that_is_not_wanted_any_more_is_killed() {
        let said = shell("echo so far; exec sleep 1000", &mut |_| Err(End::Cancelled));
        assert_eq!(said, (End::Cancelled, "so far".to_owned()));
    }
}
