//! The zygote: a process that has an engine loaded and forks engine hosts.
//!
//! It reads nothing of a container: a request says only whether the host makes namespaces ahead,
//! and a host parses the configuration of its one container in its own memory. So nothing of a
//! container is in a later one. What all hosts of a zygote share is what the engine and the
//! libraries have written at their start, and the addresses of it.

use wherry_protocol::message::{ForkHost, HOST, HostForked};
use wherry_protocol::{Channel, Packet};
use wherry_sys::title;

use crate::clone;
use crate::namespaces::SpareNamespaces;

/// Forks hosts, children of the daemon, until the daemon closes `channel`. Returns None then, and
/// in each host its channel and the namespaces that it has made.
pub(crate) fn fork_hosts(channel: Channel) -> Option<(Channel, Option<SpareNamespaces>)> {
    // A daemon of another version, or a broken one, gets no host.
    while let Ok(Some(Packet { message, fds })) = channel.receive::<ForkHost>() {
        let own = fds.into_iter().next()?;
        let forked: HostForked = match clone::sibling(None) {
            Ok(None) => {
                drop(channel);
                title::replace_arguments(&["wherry", HOST]);
                // Without them the container makes its own, and reports why it cannot.
                let made = message.namespaces.then(SpareNamespaces::create);
                return Some((Channel::from_fd(own), made.and_then(Result::ok)));
            }
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
        daemon.send(&ForkHost { namespaces: false }, &[]).unwrap();
        assert!(fork_hosts(channel).is_none());
    }
}
