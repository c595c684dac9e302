//! Handing the service over to the next version of this executable.
//!
//! In this order: the gate is closed, so that no request arrives; the requests that were read are
//! answered, all but Wait, which the next version is asked again; no thread works; no event waits
//! for containerd's acknowledgement; no child is reaped; every container is suspended. Then all of
//! it is saved in one step, because the daemon has one thread. Dropping the suspended service
//! resumes everything in the opposite order.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use wherry_container::{
    Container, Error as ContainerError, Runtime, SavedContainer, SuspendedContainer, thread,
};
use wherry_sys::handover::{Incoming, Outgoing, ResumeError};
use wherry_sys::logger::{ContainerLog, SavedLog};
use wherry_sys::reaper::SuspendedReaper;

use crate::connections::{Closed, Connections, RestoredConnection, SavedConnection};
use crate::error::Error;
use crate::events::{Publisher, SavedEvent, SuspendedPublisher};
use crate::lifecycle::Lifetime;
use crate::registry::{Registry, SavedRegistry};
use crate::service::Service;

/// How long the gate stays closed for the requests that are being answered: clients give up calls
/// after two seconds (containerd's `task.state` timeout).
const CLOSED: Duration = Duration::from_secs(1);
/// How long the gate is open between two attempts.
const OPEN: Duration = Duration::from_millis(200);
/// How long a handover is attempted. A Create that compiles a large module takes longer.
const LIMIT: Duration = Duration::from_secs(10);
/// The interval in which a closed gate is checked.
const INTERVAL: Duration = Duration::from_millis(1);

/// Why a service cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum NotSuspended {
    /// A request takes too long.
    #[error("{0} has been in progress for {LIMIT:?}: try again when it has ended")]
    Busy(String),
    /// A thread of this process holds the namespaces of the pod.
    #[error(
        "the pod is the shim's (sandboxer \"shim\"), and a thread of this process holds its \
         namespaces: delete the pod first"
    )]
    Pod,
    /// The daemon ends.
    #[error("the shim is shutting down")]
    ShuttingDown,
    /// A container cannot be handed over.
    #[error("container {id:?} cannot be handed over: {source}")]
    Container {
        /// The container.
        id: String,
        /// The cause.
        source: ContainerError,
    },
    /// An event cannot be encoded.
    #[error("an event cannot be handed over: {0}")]
    Event(String),
}

/// A service that is suspended. Dropping this resumes it.
pub struct SuspendedService {
    // In the order in which they are resumed.
    containers: Vec<SuspendedContainer>,
    _reaper: SuspendedReaper,
    _publisher: SuspendedPublisher,
    _gate: Closed,
    service: Service,
    publisher: Publisher,
}

/// A service in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedService {
    registry: SavedRegistry,
    asked_to_end: bool,
    containers: Vec<(SavedContainer, Option<SavedLog>)>,
    connections: Vec<SavedConnection>,
    events: Vec<SavedEvent>,
}

impl SavedService {
    /// The number of containers.
    #[must_use]
    pub fn containers(&self) -> usize {
        self.containers.len()
    }
}

impl Service {
    /// Suspends the service and `publisher`. Requests that arrive meanwhile wait, for a second at a
    /// time.
    ///
    /// # Errors
    /// [`NotSuspended`]; then the service continues.
    pub async fn suspend(&self, publisher: &Publisher) -> Result<SuspendedService, NotSuspended> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.is_possible()?;
            let gate = self.connections().close_gate();
            let publishing = publisher.suspend();
            let attempt = self.attempt(publisher, gate, publishing);
            let busy = match timeout(CLOSED, attempt).await {
                Ok(result) => return result,
                Err(_) => self.in_progress(publisher),
            };
            if Instant::now() >= deadline {
                let unknown = || "a request whose client has left".to_owned();
                return Err(NotSuspended::Busy(busy.unwrap_or_else(unknown)));
            }
            sleep(OPEN).await;
        }
    }

    async fn attempt(
        &self,
        publisher: &Publisher,
        gate: Closed,
        publishing: SuspendedPublisher,
    ) -> Result<SuspendedService, NotSuspended> {
        self.quiet_for(publisher).await;
        // From here on an exit waits in the kernel.
        let reaper = self.runtime().supervisor.reaper.suspend();
        let mut containers = Vec::new();
        for container in self.registry().containers() {
            let id = &container.config().container.id;
            let suspended = container
                .suspend()
                .await
                .map_err(|source| NotSuspended::Container { id: id.clone(), source })?;
            containers.extend(suspended);
        }
        // An exit that was handled meanwhile has started a thread.
        self.quiet_for(publisher).await;
        // The requests that were answered meanwhile may have created a pod.
        self.is_possible()?;
        Ok(SuspendedService {
            containers,
            _reaper: reaper,
            _publisher: publishing,
            _gate: gate,
            service: self.clone(),
            publisher: publisher.clone(),
        })
    }

    fn is_possible(&self) -> Result<(), NotSuspended> {
        let registry = self.registry();
        if registry.is_closed() {
            return Err(NotSuspended::ShuttingDown);
        }
        if registry.has_pod() {
            return Err(NotSuspended::Pod);
        }
        Ok(())
    }

    async fn quiet_for(&self, publisher: &Publisher) {
        while self.in_progress(publisher).is_some() {
            sleep(INTERVAL).await;
        }
    }

    /// The first thing that must end before the service can be saved.
    fn in_progress(&self, publisher: &Publisher) -> Option<String> {
        let some = |is: bool, text: &str| is.then(|| text.to_owned());
        self.connections()
            .in_progress()
            .or_else(|| self.registry().creating().map(|id| format!("Create of {id:?}")))
            .or_else(|| some(!self.in_flight().is_none(), "a request whose client has left"))
            .or_else(|| some(!thread::are_idle(), "the work of a thread"))
            .or_else(|| some(publisher.is_sending(), "the publication of an event"))
    }

    /// The service of [`SuspendedService::save`], and its connections. Must be called within the
    /// runtime.
    ///
    /// # Errors
    /// If a descriptor did not come along.
    pub fn restore(
        saved: SavedService,
        runtime: Arc<Runtime>,
        publisher: &Publisher,
        connections: Connections,
        lifetime: Lifetime,
        from: &mut Incoming,
    ) -> Result<(Service, Vec<RestoredConnection>), ResumeError> {
        let SavedService { registry, asked_to_end, containers, connections: open, events } = saved;
        publisher.restore(events);
        let registry = Registry::restore(&registry);
        for (container, log) in containers {
            let log = match log {
                Some(log) => ContainerLog::restore(&log, from)?,
                None => ContainerLog::default(),
            };
            registry.adopt(Container::restore(&runtime, container, from)?, log);
        }
        let open = Connections::restore(open, from)?;
        let service =
            Service::with_registry(runtime, connections, lifetime, registry, asked_to_end);
        Ok((service, open))
    }
}

impl SuspendedService {
    /// The service, for the next version of this executable. Must be followed by the execution
    /// without an await in between.
    ///
    /// # Errors
    /// [`NotSuspended::Busy`] if something has happened since; [`NotSuspended::Container`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedService, NotSuspended> {
        let SuspendedService { containers, service, publisher, .. } = self;
        if let Some(busy) = service.in_progress(publisher) {
            return Err(NotSuspended::Busy(busy));
        }
        let registry = service.registry();
        let container = |container: &SuspendedContainer| {
            let id = container.id();
            let saved = container
                .save(out)
                .map_err(|source| NotSuspended::Container { id: id.to_owned(), source })?;
            Ok((saved, registry.save_log(id, out)))
        };
        let containers = containers.iter().map(container).collect::<Result<_, _>>()?;
        let events =
            publisher.save().map_err(|error: Error| NotSuspended::Event(error.to_string()));
        Ok(SavedService {
            registry: registry.save(),
            asked_to_end: service.is_asked_to_end(),
            containers,
            connections: service.connections().save(out),
            events: events?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ttrpc::MessageHeader;
    use wherry_container::{Event, EventKind, EventSink};
    use wherry_image::Cache;
    use wherry_protocol::compile::Bounds;
    use wherry_supervisor::{Engine, Engines, Program, Supervisor};
    use wherry_sys::handover;
    use wherry_sys::reaper::Reaper;

    use crate::connections::tests::request;

    /// A service without containers, and a publisher whose containerd does not exist.
    fn service(connections: &Connections) -> (Service, Publisher) {
        // The test runs none of its executables.
        let host = Program::new("wherry-none-host".into());
        let engine = Engine::new("none", host, Cache::new("/none".into(), "none", 0));
        let supervisor = Supervisor {
            engines: Engines::only(engine),
            bounds: Bounds { memory: 1 << 20, seconds: 1, module: 1 << 20, code: 1 << 20 },
            reaper: Reaper::default(),
        };
        let publisher = Publisher::start("/none.sock", "default");
        let events: Arc<dyn EventSink> = Arc::new(publisher.clone());
        let runtime = Arc::new(Runtime { supervisor: Arc::new(supervisor), events });
        (Service::new(runtime, connections.clone(), Lifetime::Group), publisher)
    }

    async fn is_open(connections: &Connections) -> bool {
        let open = std::future::poll_fn(|context| connections.poll_open(context));
        timeout(Duration::ZERO, open).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_named_and_the_gate_is_open_again() {
        let connections = Connections::default();
        let (service, publisher) = service(&connections);
        let connected = connections.open(&-1, Vec::new());
        connected.has_read(&request(1, "Create"));
        let start = Instant::now();
        let refused = service.suspend(&publisher).await.err().unwrap().to_string();
        assert_eq!(
            refused,
            "Create of \"x\" has been in progress for 10s: try again when it has ended"
        );
        assert!(start.elapsed() >= LIMIT && is_open(&connections).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_service_keeps_the_gate_closed_until_it_is_dropped() {
        let connections = Connections::default();
        let (service, publisher) = service(&connections);
        let connected = connections.open(&-1, Vec::new());
        connected.has_read(&request(1, "Wait"));
        let suspended = service.suspend(&publisher).await.ok().unwrap();
        assert!(!is_open(&connections).await);
        let saved = suspended.save(&mut Outgoing::default()).unwrap();
        let saved: SavedService = handover::copy(&saved);
        assert_eq!((saved.connections.len(), saved.containers()), (1, 0));
        drop(suspended);
        assert!(is_open(&connections).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_version_sends_the_events_that_containerd_has_not_acknowledged_and_ends_if_asked_to()
     {
        let connections = Connections::default();
        let (service, publisher) = service(&connections);
        service.end_without_containers();
        for kind in [EventKind::Paused, EventKind::Resumed] {
            publisher.send(Event { id: "x".into(), exec_id: String::new(), kind });
        }
        let suspended = service.suspend(&publisher).await.ok().unwrap();
        let saved = suspended.save(&mut Outgoing::default()).unwrap();
        let saved: SavedService = handover::copy(&saved);
        let (other, next) = self::service(&connections);
        let runtime = other.runtime();
        let mut from = Incoming::default();
        let restored =
            Service::restore(saved, runtime, &next, connections, Lifetime::Group, &mut from);
        assert!(restored.unwrap().0.is_asked_to_end());
        let topics = |publisher: &Publisher| -> Vec<String> {
            let saved = publisher.save().unwrap();
            saved.iter().map(|event| event.topic()).collect()
        };
        assert_eq!(topics(&next), ["/tasks/paused", "/tasks/resumed"]);
        assert_eq!(topics(&publisher), topics(&next));
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_before_a_handover_that_failed_is_the_state_after_it() {
        let connections = Connections::default();
        let (service, publisher) = service(&connections);
        service.registry().request_shutdown();
        let refused = service.suspend(&publisher).await.err().unwrap();
        assert!(matches!(refused, NotSuspended::ShuttingDown));
        let (service, publisher) = self::service(&connections);
        let pod = service.registry().reserve_pod("pod").unwrap();
        let refused = service.suspend(&publisher).await.err().unwrap();
        assert!(matches!(refused, NotSuspended::Pod) && is_open(&connections).await);
        drop(pod);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_a_request_creates_meanwhile_is_refused_too() {
        let connections = Connections::default();
        let (service, publisher) = service(&connections);
        let connected = connections.open(&-1, Vec::new());
        connected.has_read(&request(1, "CreateSandbox"));
        let create = async {
            sleep(INTERVAL * 10).await;
            let pod = service.registry().reserve_pod("pod").unwrap();
            connected.has_written(&Vec::from(MessageHeader::new_response(1, 0)));
            pod
        };
        let (refused, _pod) = tokio::join!(service.suspend(&publisher), create);
        assert!(matches!(refused.err().unwrap(), NotSuspended::Pod));
        assert!(is_open(&connections).await);
    }
}
