//! Engine hosts that were started ahead of time, and the zygote that forks them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wherry_protocol::Channel;
use wherry_protocol::message::{ForkHost, HostForked, ZYGOTE};
use wherry_sys::process::Pid;

use crate::launch::{self, Host};
use crate::program::Program;

/// How many hosts a zygote forks before another takes its place. The processes of one zygote have
/// their libraries at the same addresses: a guest that learns its own learns those of the others.
const FORKS_MAX: usize = 100;

/// Engine hosts that were started ahead of time: each has its engine loaded while clients still
/// prepare their containers. None of them has seen anything of a container.
#[derive(Debug, Default)]
pub struct SpareHosts {
    hosts: Mutex<Vec<Host>>,
    /// The number to which [`SpareHosts::refill`] fills them up. 0: no more hosts are expected, and
    /// a zygote is not worth its memory.
    kept: usize,
    zygote: Mutex<Option<Zygote>>,
}

impl SpareHosts {
    /// Keeps up to `kept` hosts.
    pub fn keep(&mut self, kept: usize) {
        self.kept = kept;
    }

    /// Adds a host.
    pub fn put(&self, host: Host) {
        lock(&self.hosts).push(host);
    }

    /// The number of hosts that are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        lock(&self.hosts).len()
    }

    pub(crate) fn needs_refill(&self) -> bool {
        self.ready() < self.kept
    }

    pub(crate) fn take(&self) -> Option<Host> {
        let mut hosts = lock(&self.hosts);
        // One may have been killed since, when memory was short.
        while let Some(host) = hosts.pop() {
            if host.waits() {
                return Some(host);
            }
        }
        None
    }

    /// Starts hosts in place of those that were used.
    pub(crate) fn refill(&self, program: &Program) {
        self.fill_up_to(self.kept, program);
    }

    /// Starts hosts until there are `count`.
    pub(crate) fn fill_up_to(&self, count: usize, program: &Program) {
        while self.ready() < count {
            match self.spawn(program) {
                Ok(host) => self.put(host),
                // The next Create tries it again, and reports the cause.
                Err(_) => return,
            }
        }
    }

    /// Forks a host from the zygote, or executes one.
    ///
    /// # Errors
    /// If it cannot be executed.
    pub(crate) fn spawn(&self, program: &Program) -> io::Result<Host> {
        if self.kept == 0 {
            return Host::spawn(program);
        }
        let mut zygote = lock(&self.zygote);
        // One that is dropped ends.
        if zygote.as_ref().is_none_or(|zygote| zygote.forks == FORKS_MAX) {
            *zygote = Some(Zygote::spawn(program)?);
        }
        match zygote.as_mut().map(Zygote::fork) {
            Some(Ok(host)) => Ok(host),
            Some(Err(error)) => {
                log::warn!("the zygote forks no engine host: {error}");
                *zygote = None;
                Host::spawn(program)
            }
            None => Host::spawn(program),
        }
    }
}

/// A process that forks engine hosts: they need neither an exec nor the start of an engine, and
/// share the memory that these write.
#[derive(Debug)]
struct Zygote {
    channel: Channel,
    forks: usize,
}

impl Zygote {
    fn spawn(program: &Program) -> io::Result<Zygote> {
        // The reaper reaps it; its end closes the channel.
        let (channel, _) = launch::spawn(program, ZYGOTE)?;
        Ok(Zygote { channel, forks: 0 })
    }

    fn fork(&mut self) -> io::Result<Host> {
        let (ours, theirs) = Channel::pair()?;
        let theirs = theirs.into_fd();
        self.channel.send(&ForkHost, &[std::os::fd::AsRawFd::as_raw_fd(&theirs)])?;
        drop(theirs);
        let packet = self.channel.receive::<HostForked>()?;
        let number = packet.ok_or(io::ErrorKind::BrokenPipe)?.message.map_err(io::Error::other)?;
        let pid = Pid::new(number).ok_or(io::ErrorKind::InvalidData)?;
        self.forks += 1;
        Ok(Host::forked(ours, pid))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
