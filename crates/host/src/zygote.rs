//! The zygote: a process that has an engine loaded and forks engine hosts.
//!
//! It reads nothing of a container: its requests have no content, and a host that it forks parses
//! the configuration of its one container in its own memory. So nothing of a container is in a
//! later one. What all hosts of a zygote share is what the engine and the libraries have written at
//! their start, and the addresses of it.

use wherry_protocol::message::{ForkHost, HostForked};
use wherry_protocol::{Channel, Packet};

use crate::clone;

/// Forks hosts, children of the daemon, until the daemon closes `channel`. Returns None then, and
/// in each host its channel.
pub(crate) fn fork_hosts(channel: Channel) -> Option<Channel> {
    // A daemon of another version, or a broken one, gets no host.
    while let Ok(Some(Packet { message: ForkHost, fds })) = channel.receive::<ForkHost>() {
        let own = fds.into_iter().next()?;
        let forked: HostForked = match clone::sibling(None) {
            Ok(None) => return Some(Channel::from_fd(own)),
            Ok(Some(pid)) => Ok(pid),
            Err(error) => Err(error.to_string()),
        };
        channel.send(&forked, &[]).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zygote_ends_with_its_daemon() {
        let (daemon, channel) = Channel::pair().unwrap();
        drop(daemon);
        assert!(fork_hosts(channel).is_none());
    }

    #[test]
    fn a_zygote_ends_at_a_request_without_a_channel() {
        let (daemon, channel) = Channel::pair().unwrap();
        daemon.send(&ForkHost, &[]).unwrap();
        assert!(fork_hosts(channel).is_none());
    }
}
