//! Publishes events to containerd, in order, and repeats each until containerd acknowledges it.
//!
//! While containerd is down, events are queued. An event that containerd rejects several times is
//! dropped, because the events after it wait for it.

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::{topics, types};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use ttrpc::Code;
use wherry_container::{Event, EventKind, EventSink};

use crate::convert;
use crate::error::{Error, Result};
use crate::queue::{Priority, Queue};

/// A container has four events: enough for 2,000 containers that end while containerd is down.
const QUEUE_MAX: usize = 8192;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// containerd answers in microseconds; this bounds the wait for one that hangs, nanoseconds.
const ANSWER_TIMEOUT: i64 = 5_000_000_000;

/// Publishes events to containerd. Clones share the queue.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

struct Shared {
    namespace: String,
    queue: Mutex<Queue<ForwardRequest>>,
    /// No event is sent: see [`Publisher::suspend`].
    suspended: AtomicBool,
    changed: Notify,
}

/// Events are queued and not sent until this is dropped.
pub(crate) struct SuspendedPublisher(Publisher);

impl Drop for SuspendedPublisher {
    fn drop(&mut self) {
        self.0.0.suspended.store(false, Ordering::SeqCst);
        self.0.0.changed.notify_waiters();
    }
}

/// An event in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedEvent {
    container: String,
    priority: Priority,
    /// A `ForwardRequest`.
    request: Vec<u8>,
}

impl Publisher {
    /// Publishes events of `namespace` to the ttrpc socket at `address`, a path or a `unix://` URL.
    /// Must be called within the runtime.
    #[must_use]
    pub fn start(address: &str, namespace: &str) -> Publisher {
        let publisher = Publisher(Arc::new(Shared {
            namespace: namespace.to_owned(),
            queue: Mutex::new(Queue::new(QUEUE_MAX)),
            suspended: AtomicBool::new(false),
            changed: Notify::new(),
        }));
        let address = match address.split_once("://") {
            Some(_) => address.to_owned(),
            None => format!("unix://{address}"),
        };
        tokio::spawn(publisher.clone().run(address));
        publisher
    }

    /// Sends no other event until the result is dropped.
    pub(crate) fn suspend(&self) -> SuspendedPublisher {
        self.0.suspended.store(true, Ordering::SeqCst);
        SuspendedPublisher(self.clone())
    }

    /// Whether containerd has an event that it has not acknowledged yet.
    pub(crate) fn is_sending(&self) -> bool {
        self.lock().is_sending()
    }

    /// The events that containerd has not acknowledged, for the next version of this executable.
    pub(crate) fn save(&self) -> Result<Vec<SavedEvent>> {
        let queue = self.lock();
        let save = |(container, priority, request): (&str, Priority, &ForwardRequest)| {
            let bytes = request.write_to_bytes().map_err(|source| Error::Encode {
                type_url: request.envelope.topic.clone(),
                source,
            })?;
            Ok(SavedEvent { container: container.to_owned(), priority, request: bytes })
        };
        queue.iter().map(save).collect()
    }

    /// Queues the events of [`Publisher::save`]. Those that cannot be parsed are dropped.
    pub(crate) fn restore(&self, saved: Vec<SavedEvent>) {
        for SavedEvent { container, priority, request } in saved {
            match ForwardRequest::parse_from_bytes(&request) {
                Ok(request) => drop(self.lock().push(container, priority, request)),
                Err(error) => log::error!("{container}: dropped an event: {error}"),
            }
        }
        self.0.changed.notify_waiters();
    }

    /// The number of events that containerd has not acknowledged.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.lock().len()
    }

    /// Waits until containerd has acknowledged all events, for at most `timeout`.
    pub async fn flush(&self, timeout: Duration) {
        let all_published = async {
            loop {
                let changed = self.0.changed.notified();
                if self.lock().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(timeout, all_published).await.is_err() {
            log::warn!(
                "{} events were not published: containerd did not answer within {timeout:?}",
                self.unsent()
            );
        }
    }

    async fn run(self, address: String) {
        let mut client = None;
        let mut pause = RETRY_FIRST;
        loop {
            let changed = self.0.changed.notified();
            let suspended = self.0.suspended.load(Ordering::SeqCst);
            let next = if suspended { None } else { self.lock().begin().cloned() };
            let Some(request) = next else {
                changed.await;
                continue;
            };
            let topic = &request.envelope.topic;
            match publish(&mut client, &address, &request).await {
                Ok(()) => {
                    self.lock().sent();
                    self.0.changed.notify_waiters();
                    pause = RETRY_FIRST;
                    continue;
                }
                Err(error) if is_rejection(&error) => {
                    if self.lock().rejected().is_some() {
                        log::error!("dropped a {topic} event: containerd rejected it: {error}");
                        self.0.changed.notify_waiters();
                        pause = RETRY_FIRST;
                        continue;
                    }
                    log::debug!("containerd rejected a {topic} event: {error}");
                }
                Err(error) => {
                    log::debug!("cannot publish a {topic} event: {error}");
                    self.lock().failed();
                    client = None;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, Queue<ForwardRequest>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl SavedEvent {
    pub(crate) fn topic(&self) -> String {
        ForwardRequest::parse_from_bytes(&self.request).unwrap().envelope.topic.clone()
    }
}

/// Whether containerd rejected the event, so that another attempt will fail too. False if it is
/// overloaded or unavailable.
fn is_rejection(error: &ttrpc::Error) -> bool {
    let ttrpc::Error::RpcStatus(status) = error else { return false };
    !matches!(
        status.code.enum_value(),
        Ok(Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED | Code::ABORTED)
    )
}

async fn publish(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let events = match client {
        Some(events) => events,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    events.forward(ttrpc::context::with_timeout(ANSWER_TIMEOUT), request).await?;
    Ok(())
}

impl EventSink for Publisher {
    fn send(&self, event: Event) {
        let (container, priority) = (event.id.clone(), priority(&event));
        let (topic, any) = match message(event) {
            Ok(message) => message,
            Err(error) => {
                log::error!("dropped an event: {error}");
                return;
            }
        };
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(Timestamp::from(SystemTime::now())).into();
        envelope.namespace = self.0.namespace.clone();
        envelope.topic = topic.to_owned();
        envelope.event = Some(any).into();
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        if let Some(dropped) = self.lock().push(container, priority, request) {
            let topic = &dropped.envelope.topic;
            log::error!("dropped a {topic} event: {QUEUE_MAX} events wait for containerd");
        }
        self.0.changed.notify_waiters();
    }
}

fn priority(event: &Event) -> Priority {
    match event.kind {
        EventKind::Created { .. } | EventKind::Deleted { .. } => Priority::Life,
        EventKind::Started { .. } | EventKind::Exited { .. } if event.exec_id.is_empty() => {
            Priority::Life
        }
        EventKind::Exited { .. } => Priority::ExecExit,
        EventKind::Started { .. }
        | EventKind::ExecAdded
        | EventKind::Paused
        | EventKind::Resumed
        | EventKind::OutOfMemory => Priority::Detail,
    }
}

/// Converts an event to containerd's topic and message.
fn message(event: Event) -> Result<(&'static str, Any)> {
    let Event { id, exec_id, kind } = event;
    Ok(match kind {
        EventKind::Created { bundle, rootfs, stdio, terminal, pid } => {
            let mut message = TaskCreate::new();
            message.container_id = id;
            message.bundle = bundle;
            message.rootfs = rootfs.into_iter().map(mount).collect();
            let mut io = TaskIO::new();
            io.stdin = stdio.stdin;
            io.stdout = stdio.stdout;
            io.stderr = stdio.stderr;
            io.terminal = terminal;
            message.io = Some(io).into();
            message.pid = convert::pid(pid);
            (topics::TASK_CREATE_EVENT_TOPIC, any("TaskCreate", &message)?)
        }
        EventKind::ExecAdded => {
            let mut message = TaskExecAdded::new();
            message.container_id = id;
            message.exec_id = exec_id;
            (topics::TASK_EXEC_ADDED_EVENT_TOPIC, any("TaskExecAdded", &message)?)
        }
        EventKind::Started { pid } if exec_id.is_empty() => {
            let mut message = TaskStart::new();
            message.container_id = id;
            message.pid = convert::pid(pid);
            (topics::TASK_START_EVENT_TOPIC, any("TaskStart", &message)?)
        }
        EventKind::Started { pid } => {
            let mut message = TaskExecStarted::new();
            message.container_id = id;
            message.exec_id = exec_id;
            message.pid = convert::pid(pid);
            (topics::TASK_EXEC_STARTED_EVENT_TOPIC, any("TaskExecStarted", &message)?)
        }
        EventKind::Paused => {
            let mut message = TaskPaused::new();
            message.container_id = id;
            (topics::TASK_PAUSED_EVENT_TOPIC, any("TaskPaused", &message)?)
        }
        EventKind::Resumed => {
            let mut message = TaskResumed::new();
            message.container_id = id;
            (topics::TASK_RESUMED_EVENT_TOPIC, any("TaskResumed", &message)?)
        }
        EventKind::OutOfMemory => {
            let mut message = TaskOOM::new();
            message.container_id = id;
            (topics::TASK_OOM_EVENT_TOPIC, any("TaskOOM", &message)?)
        }
        EventKind::Exited { pid, exit } => {
            let mut message = TaskExit::new();
            // The init process has the container's id.
            message.id = if exec_id.is_empty() { id.clone() } else { exec_id };
            message.container_id = id;
            message.pid = convert::pid(pid);
            message.exit_status = exit.status;
            message.exited_at = Some(Timestamp::from(exit.at)).into();
            (topics::TASK_EXIT_EVENT_TOPIC, any("TaskExit", &message)?)
        }
        EventKind::Deleted { pid, exit } => {
            let mut message = TaskDelete::new();
            message.container_id = id;
            message.pid = convert::pid(pid);
            message.exit_status = exit.status;
            message.exited_at = Some(Timestamp::from(exit.at)).into();
            (topics::TASK_DELETE_EVENT_TOPIC, any("TaskDelete", &message)?)
        }
    })
}

fn any(name: &str, message: &impl Message) -> Result<Any> {
    convert::any(&format!("containerd.events.{name}"), message)
}

fn mount(mount: wherry_protocol::Mount) -> types::mount::Mount {
    let mut message = types::mount::Mount::new();
    message.type_ = mount.fstype;
    message.source = mount.source;
    message.target = mount.target;
    message.options = mount.options;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use ttrpc::asynchronous::{Server, TtrpcContext};

    /// A containerd that rejects the events of one topic with a code, and records all that it
    /// receives.
    struct Containerd {
        rejected: (&'static str, Code),
        sent: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let topic = request.envelope.topic.clone();
            self.sent.lock().unwrap().push(topic.clone());
            if topic == self.rejected.0 {
                let status = ttrpc::get_status(self.rejected.1, "a test");
                return Err(ttrpc::Error::RpcStatus(status));
            }
            Ok(Empty::new())
        }
    }

    /// Publishes an OOM and a pause to a containerd that rejects the first with `code`. Returns the
    /// topics that it received until it had the second event, or `enough` in all.
    async fn sent(code: Code, enough: usize) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}", directory.path().join("s").display());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let containerd =
            Containerd { rejected: (topics::TASK_OOM_EVENT_TOPIC, code), sent: Arc::clone(&sent) };
        let mut server = Server::new().bind(&address).unwrap();
        server = server.register_service(create_events(Arc::new(containerd)));
        server.start().await.unwrap();
        let publisher = Publisher::start(&address, "default");
        for kind in [EventKind::OutOfMemory, EventKind::Paused] {
            publisher.send(Event { id: "x".into(), exec_id: String::new(), kind });
        }
        let done = || {
            let sent = sent.lock().unwrap();
            sent.len() >= enough
                || sent.iter().any(|topic| topic == topics::TASK_PAUSED_EVENT_TOPIC)
        };
        let waiting = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
        let sent = sent.lock().unwrap();
        sent.clone()
    }

    #[tokio::test]
    async fn an_event_that_containerd_refuses_does_not_block_those_behind_it() {
        for code in [Code::INVALID_ARGUMENT, Code::NOT_FOUND] {
            let mut expected = vec![topics::TASK_OOM_EVENT_TOPIC; 5];
            expected.push(topics::TASK_PAUSED_EVENT_TOPIC);
            assert_eq!(sent(code, 100).await, expected);
        }
    }

    #[tokio::test]
    async fn an_event_waits_for_a_containerd_that_has_no_time() {
        assert_eq!(sent(Code::UNAVAILABLE, 6).await, [topics::TASK_OOM_EVENT_TOPIC; 6]);
    }

    /// The topic and the type of an event.
    fn encoded(exec_id: &str, kind: EventKind) -> (&'static str, Any) {
        message(Event { id: "c".into(), exec_id: exec_id.into(), kind }).unwrap()
    }

    #[test]
    fn the_exit_of_a_first_process_has_the_containers_id_and_that_of_an_added_one_its_own() {
        let exit = wherry_sys::process::Exit::now(3);
        for (exec_id, id) in [("", "c"), ("e", "e")] {
            let (topic, any) = encoded(exec_id, EventKind::Exited { pid: 7, exit });
            assert_eq!(topic, topics::TASK_EXIT_EVENT_TOPIC);
            let message = TaskExit::parse_from_bytes(&any.value).unwrap();
            assert_eq!((message.container_id.as_str(), message.id.as_str()), ("c", id));
            assert_eq!((message.pid, message.exit_status), (7, 3));
        }
    }

    #[test]
    fn the_start_of_an_added_process_is_another_event_than_that_of_a_container() {
        let (topic, any) = encoded("", EventKind::Started { pid: 7 });
        assert_eq!(topic, topics::TASK_START_EVENT_TOPIC);
        assert_eq!(TaskStart::parse_from_bytes(&any.value).unwrap().pid, 7);
        let (topic, any) = encoded("e", EventKind::Started { pid: 7 });
        assert_eq!(topic, topics::TASK_EXEC_STARTED_EVENT_TOPIC);
        assert_eq!(TaskExecStarted::parse_from_bytes(&any.value).unwrap().exec_id, "e");
    }
}
