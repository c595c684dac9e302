//! Hearing that the kernel has killed a process of a container for want of memory, while the rest of
//! the container goes on: the notifications of `memory.oom_control` in cgroup v1, and changes of
//! `memory.events` in v2. See the kernel's cgroup-v1/memory and cgroup-v2.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Cgroup, Meter};

/// Waits for a cgroup's out-of-memory kills. It costs a descriptor, and wakes nobody before there is
/// something to tell.
#[derive(Debug)]
pub struct OomWatch {
    meter: Meter,
    source: AsyncFd<OwnedFd>,
    told: u64,
}

impl OomWatch {
    /// Begins to watch. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no notifications for this cgroup.
    #[allow(unsafe_code)]
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
        // SAFETY: the descriptor is owned by what is registered, which never gives it away.
        let source = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }
            .map_err(io::Error::from)?;
        Ok(OomWatch { meter: meter.clone(), source, told: 0 })
    }

    /// Waits until there was a kill that has not been told yet. May be dropped and called again.
    ///
    /// # Errors
    /// When nothing can be heard any more.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.source.readable().await?;
            let heard = ready.try_io(|source| {
                let mut buffer = [0; 4096];
                Ok(nix::unistd::read(source.get_ref(), &mut buffer)?)
            });
            match heard {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            }
            let kills = match self.meter.cgroup() {
                // The notification comes before the kill, and for nothing else.
                Cgroup::V1(_) => self.told + 1,
                Cgroup::V2(_) => self.meter.read().oom_kills(),
            };
            if kills > self.told {
                self.told = kills;
                return Ok(());
            }
        }
    }

    /// How many kills [`OomWatch::next`] has told.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told
    }
}
