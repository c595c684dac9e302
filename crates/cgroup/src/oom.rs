//! Out-of-memory kills in a cgroup, as they happen: notifications of `memory.oom_control` on
//! version 1, and changes of `memory.events` on version 2. See the kernel's cgroup-v1/memory and
//! cgroup-v2.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};

use crate::{Cgroup, Meter};

/// The source of a cgroup's out-of-memory notifications: a descriptor that becomes readable.
#[derive(Debug)]
pub struct OomWatch {
    meter: Meter,
    source: OwnedFd,
    reported: u64,
}

/// An [`OomWatch`] in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedOomWatch {
    source: Descriptor,
    reported: u64,
}

impl OomWatch {
    /// Registers with the kernel.
    ///
    /// # Errors
    /// If the kernel has no notifications for this cgroup.
    pub fn new(meter: &Meter) -> io::Result<OomWatch> {
        let cgroup = meter.cgroup();
        let directory = cgroup.directory("memory").ok_or(io::ErrorKind::Unsupported)?;
        let source = match cgroup {
            Cgroup::V1(_) => {
                let notifications =
                    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
                let control = File::open(directory.join("memory.oom_control"))?;
                let (ours, theirs) = (notifications.as_fd().as_raw_fd(), control.as_raw_fd());
                fs::write(directory.join("cgroup.event_control"), format!("{ours} {theirs}"))?;
                OwnedFd::from(notifications)
            }
            Cgroup::V2(_) => {
                let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
                changes.add_watch(&directory.join("memory.events"), AddWatchFlags::IN_MODIFY)?;
                OwnedFd::from(changes)
            }
        };
        Ok(OomWatch { meter: meter.clone(), source, reported: 0 })
    }

    /// The source, for the next version of this executable. The kernel continues to notify it.
    pub fn save(&self, out: &mut Outgoing) -> SavedOomWatch {
        SavedOomWatch { source: out.add(&self.source), reported: self.reported }
    }

    /// The source of [`OomWatch::save`], of the cgroup of `meter`.
    ///
    /// # Errors
    /// If its descriptor did not come along.
    pub fn restore(
        saved: &SavedOomWatch,
        meter: &Meter,
        from: &mut Incoming,
    ) -> Result<OomWatch, ResumeError> {
        let source = from.take(saved.source)?;
        Ok(OomWatch { meter: meter.clone(), source, reported: saved.reported })
    }

    /// Reads the pending notifications and returns whether there was a kill since the last call.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none is pending; any other error is permanent.
    pub fn read(&mut self) -> io::Result<bool> {
        match nix::unistd::read(&self.source, &mut [0; 4096]) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let kills = match self.meter.cgroup() {
            // The notification comes before the kill, and for nothing else.
            Cgroup::V1(_) => self.reported + 1,
            Cgroup::V2(_) => self.meter.read().oom_kills(),
        };
        let more = kills > self.reported;
        self.reported = self.reported.max(kills);
        Ok(more)
    }

    /// The number of kills that [`OomWatch::read`] has reported.
    #[must_use]
    pub fn reported(&self) -> u64 {
        self.reported
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.source.as_raw_fd()
    }
}
