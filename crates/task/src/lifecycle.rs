//! When the daemon ends without a Shutdown: containerd sends one after each Delete and each failed
//! Create, but not when it was killed in between, or when it cleaned up with the `delete` command.
//!
//! The daemon ends when it has had no container and no Create for [`IDLE_TIMEOUT`]. A client that
//! is still connected does not keep it: containerd 2.1 leaks its connection when it gives up a shim
//! after a restart. Before the first client and the first Create, the daemon waits longer, for a
//! machine that is slow to start containerd's requests.
//!
//! A manager is not ended by Shutdown. It ends when it has had neither a container nor a change of
//! its connections for a longer time: each `start` that finds it connects to it, and so does the
//! client to which that `start` gives the address.
//!
//! Once a client has disconnected, the daemon looks for containers that containerd has given up:
//! it runs the `delete` command and deletes the bundle when a daemon does not answer in time, as in
//! the middle of a Create. A connection says nothing then, since containerd 2.1 leaks it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::connections::Connections;
use crate::registry::Registry;

/// The idle timeout before the first Create, unless the first client has disconnected without one.
const FIRST_CREATE_TIMEOUT: Duration = Duration::from_secs(120);
/// The idle timeout after that. Shutdown follows Delete within milliseconds, so it has been lost by
/// then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two sweeps: as long as since the last change of the connections, since
/// containerd cleans up soon after it has restarted; but at least and at most this.
const SWEEP_INTERVAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// How often a daemon that was asked to end checks whether it can.
const END_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What ends a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The daemon of a group: Shutdown, or a short time without containers.
    Group,
    /// A manager: this time without containers.
    Manager {
        /// The time.
        idle: Duration,
    },
}

/// Closes the registry when its idle timeout has passed, and then returns. A manager calls `retire`
/// at that timeout, and waits for another if that returns false: a client connects.
pub(crate) async fn idle(
    registry: &Registry,
    connections: &Connections,
    lifetime: Lifetime,
    retire: impl Fn() -> bool,
) {
    let (mut changes, mut clients) = (registry.changes(), connections.changes());
    let mut connected = *clients.borrow_and_update();
    // The last change of the connections, and the last one since a client has disconnected.
    let mut connected_at = Instant::now();
    // After a handover the daemon does not know when that was.
    let mut changed_at = registry.is_restored().then(Instant::now);
    let mut swept_at: Option<Instant> = None;
    let (least, most) = SWEEP_INTERVAL;
    loop {
        // A manager's connections change all the time.
        if changed_at.is_some() && swept_at.is_none_or(|at| at.elapsed() >= least) {
            sweep(registry).await;
            swept_at = Some(Instant::now());
        }
        // Changes up to here are seen below.
        changes.mark_unchanged();
        let deadline = registry.empty().map(|empty| match (lifetime, empty.used, changed_at) {
            (Lifetime::Manager { idle }, ..) => empty.since.max(connected_at) + idle,
            (Lifetime::Group, true, _) => empty.since + IDLE_TIMEOUT,
            (Lifetime::Group, false, Some(at)) if connected == 0 => at + IDLE_TIMEOUT,
            (Lifetime::Group, false, _) => empty.since + FIRST_CREATE_TIMEOUT,
        });
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let called = || clients.has_changed().unwrap_or(false) || !retire();
            if registry.close_if_empty(|| lifetime == Lifetime::Group || !called()) {
                return;
            }
            connected_at = now;
            continue;
        }
        let next_sweep = changed_at
            .filter(|_| registry.has_created())
            .map(|at| swept_at.unwrap_or(now) + (now - at).clamp(least, most));
        let timer = async {
            match deadline.or(next_sweep) {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The senders live in `registry` and `connections`: neither channel can close.
            _ = changes.changed() => {}
            _ = clients.changed() => {
                let count = *clients.borrow_and_update();
                connected_at = Instant::now();
                // Equal: one has disconnected and another has connected.
                if count <= connected || changed_at.is_some() {
                    changed_at = Some(Instant::now());
                }
                connected = count;
            }
            () = timer => {}
        }
    }
}

/// Waits until `asked`, then until the daemon has no container, or no client and no container that
/// lives: at the machine's end containerd, which would delete them, ends first. Then closes the
/// registry, if `retire` succeeds, and returns.
pub(crate) async fn unused(
    registry: &Registry,
    connections: &Connections,
    asked: &watch::Sender<bool>,
    retire: impl Fn() -> bool,
) {
    // The caller holds the sender: the channel cannot close.
    let _ = asked.subscribe().wait_for(|asked| *asked).await;
    let mut waits = false;
    loop {
        if registry.close_if_empty(&retire)
            || connections.none() && registry.close_if_ended(&retire)
        {
            return;
        }
        if !waits {
            let census = registry.census();
            log::warn!(
                "the shim was asked to end, and does so without containers: it has {census}"
            );
            waits = true;
        }
        sleep(END_CHECK_INTERVAL).await;
    }
}

/// Removes what containerd has given up.
async fn sweep(registry: &Registry) {
    registry.forget_removed();
    for container in registry.without_bundle() {
        let id = &container.config().container.id;
        log::warn!("{id}: it is removed: its bundle was deleted before its start");
        // It is tried again at the next sweep.
        if let Err(error) = container.delete().await {
            log::error!("{id}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::path::Path;

    use tokio::time::{sleep, timeout};

    use crate::error::Error;
    use crate::registry::Reserved;

    /// Whether the daemon ends within `limit`, and after how many seconds.
    async fn ends_after(
        registry: &Registry,
        connections: &Connections,
        limit: Duration,
    ) -> Option<u64> {
        let start = Instant::now();
        timeout(limit, idle(registry, connections, Lifetime::Group, || true)).await.ok()?;
        Some(start.elapsed().as_secs())
    }

    fn reserve<'a>(registry: &'a Registry, id: &str) -> crate::error::Result<Reserved<'a>> {
        registry.reserve(id, Path::new("/no/such/bundle"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_asked_to_end_does_so_without_containers_and_without_a_caller() {
        let (registry, connections, asked) =
            (Registry::new(), Connections::default(), watch::Sender::new(false));
        let _client = connections.open(&-1, Vec::new());
        let called = Cell::new(true);
        let mut ended = std::pin::pin!(unused(&registry, &connections, &asked, || !called.get()));
        let later = Duration::from_secs(3600);
        assert!(timeout(later, &mut ended).await.is_err(), "it was not asked");
        let reserved = reserve(&registry, "x").unwrap();
        asked.send_replace(true);
        assert!(timeout(later, &mut ended).await.is_err(), "it has a container");
        assert!(reserve(&registry, "y").is_ok(), "it still serves");
        drop(reserved);
        assert!(timeout(later, &mut ended).await.is_err(), "a client has got the address");
        called.set(false);
        timeout(later, &mut ended).await.unwrap();
        assert!(matches!(reserve(&registry, "x"), Err(Error::ShuttingDown)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_gets_no_create_ends() {
        for clients in [0, 1] {
            let (registry, connections) = (Registry::new(), Connections::default());
            let _clients: Vec<_> =
                (0..clients).map(|_| connections.open(&-1, Vec::new())).collect();
            let limit = FIRST_CREATE_TIMEOUT * 2;
            assert_eq!(ends_after(&registry, &connections, limit).await, Some(120));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_whose_first_client_left_without_a_create_ends_soon() {
        let (registry, connections) = (Registry::new(), Connections::default());
        let client = connections.open(&-1, Vec::new());
        let leave = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(client);
            std::future::pending::<()>().await;
        };
        let ended = async { ends_after(&registry, &connections, FIRST_CREATE_TIMEOUT).await };
        tokio::select! {
            () = leave => {}
            after = ended => assert_eq!(after, Some(70)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_whose_create_failed_ends_soon_also_while_a_client_is_connected() {
        for leaks in [false, true] {
            let (registry, connections) = (Registry::new(), Connections::default());
            let client = connections.open(&-1, Vec::new());
            drop(reserve(&registry, "x").unwrap());
            let _leaked = leaks.then_some(client);
            assert_eq!(ends_after(&registry, &connections, FIRST_CREATE_TIMEOUT).await, Some(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_in_progress_keeps_the_daemon() {
        let (registry, connections) = (Registry::new(), Connections::default());
        let reserved = reserve(&registry, "x").unwrap();
        assert_eq!(ends_after(&registry, &connections, FIRST_CREATE_TIMEOUT * 10).await, None);
        drop(reserved);
        assert_eq!(ends_after(&registry, &connections, FIRST_CREATE_TIMEOUT).await, Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_ends_when_it_had_neither_containers_nor_new_connections_for_its_idle_time() {
        let (registry, connections) = (Registry::new(), Connections::default());
        let lifetime = Lifetime::Manager { idle: Duration::from_secs(300) };
        let start = Instant::now();
        let work = async {
            sleep(Duration::from_secs(200)).await;
            let _leaked = connections.open(&-1, Vec::new());
            sleep(Duration::from_secs(200)).await;
            let reserved = reserve(&registry, "x").unwrap();
            sleep(Duration::from_secs(1000)).await;
            drop(reserved);
            std::future::pending::<()>().await;
        };
        let calls = Cell::new(0);
        let retire = || {
            calls.set(calls.get() + 1);
            calls.get() > 2
        };
        tokio::select! {
            () = work => {}
            () = idle(&registry, &connections, lifetime, retire) => {}
        }
        // Two clients have called in the last moment.
        assert_eq!((start.elapsed().as_secs(), calls.get()), (1400 + 3 * 300, 3));
        assert!(matches!(reserve(&registry, "x"), Err(Error::ShuttingDown)));
    }

    /// Every order of Create, its failure or cancellation, Shutdown, connections and
    /// disconnections, with pauses: the daemon never closes while a Create is in progress, and
    /// always ends when none is.
    #[tokio::test(start_paused = true)]
    async fn in_any_order_the_daemon_ends_when_it_is_idle_and_not_before() {
        for seed in 0..500 {
            let mut random = crate::random::Random::new(seed);
            let (registry, connections) = (Registry::new(), Connections::default());
            let (mut clients, mut creates) = (Vec::new(), Vec::new());
            let watch = idle(&registry, &connections, Lifetime::Group, || true);
            tokio::pin!(watch);
            let mut ended = false;
            for step in 0..40 {
                match random.below(7) {
                    0 => clients.push(connections.open(&-1, Vec::new())),
                    1 => drop(clients.pop()),
                    2 => {
                        let id = random.below(3).to_string();
                        match reserve(&registry, &id) {
                            Ok(reserved) => creates.push(reserved),
                            Err(Error::ShuttingDown) => {
                                assert!(creates.is_empty(), "seed {seed}, step {step}");
                            }
                            Err(error) => assert!(matches!(error, Error::ContainerExists(_))),
                        }
                    }
                    3 => drop(creates.pop()),
                    4 => {
                        // Valid with and without a Create of this id.
                        let _ = registry.cancel(&random.below(3).to_string());
                    }
                    5 => registry.request_shutdown(),
                    _ => {}
                }
                let pause = Duration::from_secs(random.below(30));
                ended |= timeout(pause, &mut watch).await.is_ok();
                if ended {
                    assert!(creates.is_empty(), "seed {seed}, step {step}");
                    break;
                }
            }
            creates.clear();
            let closed = async {
                tokio::select! {
                    () = registry.closed() => {}
                    () = &mut watch, if !ended => {}
                }
            };
            let ends = timeout(FIRST_CREATE_TIMEOUT + Duration::from_secs(1), closed).await;
            assert!(ends.is_ok(), "seed {seed}: the daemon stays");
        }
    }
}
