//! Engine hosts that were started ahead of time, and the zygote that forks them.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wherry_protocol::Channel;
use wherry_protocol::message::{ForkHost, HostForked, ZYGOTE};
use wherry_sys::process::{Pid, Process};

use crate::launch::{self, Host};
use crate::program::Program;

/// How many hosts a zygote forks before another takes its place. The processes of one zygote have
/// their libraries at the same addresses: a guest that learns its own learns those of the others.
const FORKS_MAX: usize = 100;

/// How long a zygote may take to fork. It takes less than a millisecond; one that is stopped, or
/// that the machine does not schedule, must not delay a Create for longer.
const FORK_TIMEOUT: Duration = Duration::from_secs(2);

/// Engine hosts that were started ahead of time: each has its engine loaded while clients still
/// prepare their containers. None of them has seen anything of a container.
#[derive(Debug, Default)]
pub struct SpareHosts {
    hosts: Mutex<Vec<Host>>,
    /// The number to which [`SpareHosts::refill`] fills them up. 0: no more hosts are expected, and
    /// a zygote is not worth its memory.
    kept: usize,
    zygote: Mutex<Option<Zygote>>,
    /// How long they stay without a use.
    idle: Duration,
    used_at: Mutex<Option<Instant>>,
    /// Whether a caller of [`SpareHosts::end_unused`] waits for that time.
    watched: AtomicBool,
    /// Whether the last container had a new network namespace: the next one probably has, too.
    network: AtomicBool,
}

impl SpareHosts {
    /// Keeps up to `kept` hosts, until none of them was used for `idle`.
    pub fn keep(&mut self, kept: usize, idle: Duration) {
        self.kept = kept;
        self.idle = idle;
    }

    /// Whether the caller should call [`SpareHosts::end_unused`] until that returns None.
    #[must_use]
    pub fn watch(&self) -> bool {
        !self.watched.swap(true, Ordering::Relaxed)
    }

    /// Ends the hosts and their zygote if none was used for the time of [`SpareHosts::keep`].
    /// Returns how long to wait before the next call; None: they have ended.
    #[must_use]
    pub fn end_unused(&self) -> Option<Duration> {
        let unused = lock(&self.used_at).map_or(self.idle, |at| at.elapsed());
        let rest = self.idle.saturating_sub(unused);
        if !rest.is_zero() {
            return Some(rest);
        }
        // A thread that holds it forks a host.
        let Ok(mut zygote) = self.zygote.try_lock() else { return Some(FORK_TIMEOUT) };
        // The next use watches again.
        self.watched.store(false, Ordering::Relaxed);
        *zygote = None;
        lock(&self.hosts).clear();
        None
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
        *lock(&self.used_at) = Some(Instant::now());
        let mut hosts = lock(&self.hosts);
        // One may have been killed since, when memory was short.
        while let Some(host) = hosts.pop() {
            if host.waits() {
                return Some(host);
            }
        }
        None
    }

    /// Hosts that are forked from here on make a network namespace ahead, or do not: a pod's
    /// containers have that of their pod.
    pub(crate) fn expect_network(&self, expected: bool) {
        self.network.store(expected, Ordering::Relaxed);
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
        let namespaces = self.network.load(Ordering::Relaxed);
        match zygote.as_mut().map(|zygote| zygote.fork(namespaces)) {
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
    process: Process,
    forks: usize,
}

impl Zygote {
    fn spawn(program: &Program) -> io::Result<Zygote> {
        // The reaper reaps it; its end closes the channel.
        let (channel, pid) = launch::spawn(program, ZYGOTE)?;
        channel.limit_waits(FORK_TIMEOUT)?;
        Ok(Zygote { channel, process: Process::new(pid.number()), forks: 0 })
    }

    fn fork(&mut self, namespaces: bool) -> io::Result<Host> {
        let (ours, theirs) = Channel::pair()?;
        let theirs = theirs.into_fd();
        self.channel.send(&ForkHost { namespaces }, &[theirs.as_raw_fd()])?;
        drop(theirs);
        let packet = self.channel.receive::<HostForked>().inspect_err(|_| {
            // Its answer to this request would be taken for that to the next one.
            let _ = self.process.signal(libc::SIGKILL.unsigned_abs());
        })?;
        let number = packet.ok_or(io::ErrorKind::BrokenPipe)?.message.map_err(io::Error::other)?;
        let pid = Pid::new(number).ok_or(io::ErrorKind::InvalidData)?;
        self.forks += 1;
        Ok(Host::forked(ours, pid))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(hosts: &SpareHosts) -> Channel {
        let (ours, host) = Channel::pair().unwrap();
        hosts.put(Host::over(ours));
        host
    }

    #[test]
    fn hosts_end_when_none_was_used_for_their_time() {
        let mut hosts = SpareHosts::default();
        hosts.keep(2, Duration::from_secs(3600));
        let (_used, kept) = (put(&hosts), put(&hosts));
        assert!(hosts.watch() && !hosts.watch());
        assert!(hosts.take().is_some());
        assert!(hosts.end_unused().is_some_and(|rest| rest > Duration::from_secs(3000)));
        assert_eq!(hosts.ready(), 1);

        hosts.keep(2, Duration::ZERO);
        assert_eq!(hosts.end_unused(), None);
        assert_eq!(hosts.ready(), 0);
        // Its channel is closed.
        assert!(matches!(kept.receive::<ForkHost>(), Ok(None)));
        assert!(hosts.watch());
    }

    #[test]
    fn a_zygote_that_does_not_answer_is_an_error_in_time() {
        let (channel, _silent) = Channel::pair().unwrap();
        channel.limit_waits(Duration::from_millis(1)).unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("1000000").spawn().unwrap();
        let process = Process::new(Pid::of(&sleeper).number());
        let error = Zygote { channel, process, forks: 0 }.fork(false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
