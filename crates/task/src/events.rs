//! Publishes events to containerd, in their order, each until containerd has it.
//!
//! containerd may be away: the events of that time are kept and sent when it is back. An event that containerd itself
//! refuses, again and again, is dropped, because those behind it wait for it.

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
use tokio::sync::Notify;
use ttrpc::Code;
use wherry_container::{Event, EventKind, EventSink};

use crate::convert;
use crate::queue::{Queue, Worth};

/// A container makes four events in its life: much more than a long absence of containerd needs.
const QUEUE_MAX: usize = 8192;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// containerd answers in microseconds; one that hangs is not asked for ever.
const ANSWER: Duration = Duration::from_secs(5);

/// Publishes events to containerd. Clones share the queue.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

struct Shared {
    namespace: String,
    queue: Mutex<Queue<ForwardRequest>>,
    changed: Notify,
}

impl Publisher {
    /// Publishes to the ttrpc socket at `address` (a path, or `unix://` and a path) in the name
    /// of `namespace`. Must be called within the runtime.
    #[must_use]
    pub fn start(address: &str, namespace: &str) -> Publisher {
        let publisher = Publisher(Arc::new(Shared {
            namespace: namespace.to_owned(),
            queue: Mutex::new(Queue::new(QUEUE_MAX)),
            changed: Notify::new(),
        }));
        let address = match address.split_once("://") {
            Some(_) => address.to_owned(),
            None => format!("unix://{address}"),
        };
        tokio::spawn(publisher.clone().run(address));
        publisher
    }

    /// Waits until containerd has everything, but not longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let all_told = async {
            loop {
                let changed = self.0.changed.notified();
                if self.lock().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(limit, all_told).await.is_err() {
            log::warn!("{} events were not told: containerd is away", self.lock().len());
        }
    }

    async fn run(self, address: String) {
        let mut client = None;
        let mut pause = RETRY_FIRST;
        loop {
            let changed = self.0.changed.notified();
            let Some(request) = self.lock().begin().cloned() else {
                changed.await;
                continue;
            };
            let topic = &request.envelope.topic;
            match tell(&mut client, &address, &request).await {
                Ok(()) => {
                    self.lock().sent();
                    self.0.changed.notify_waiters();
                    pause = RETRY_FIRST;
                    continue;
                }
                Err(error) if is_refusal(&error) => {
                    if self.lock().refused().is_some() {
                        log::error!("a {topic} event is lost: containerd refuses it: {error}");
                        self.0.changed.notify_waiters();
                        pause = RETRY_FIRST;
                        continue;
                    }
                    log::debug!("containerd refuses a {topic} event: {error}");
                }
                Err(error) => {
                    log::debug!("cannot send a {topic} event: {error}");
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

/// Whether containerd has answered, and the answer is not that it has no time: the same event will be refused again.
fn is_refusal(error: &ttrpc::Error) -> bool {
    let ttrpc::Error::RpcStatus(status) = error else { return false };
    !matches!(
        status.code.enum_value(),
        Ok(Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED | Code::ABORTED)
    )
}

async fn tell(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let events = match client {
        Some(events) => events,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    let limit = i64::try_from(ANSWER.as_nanos()).unwrap_or(0);
    events.forward(ttrpc::context::with_timeout(limit), request).await?;
    Ok(())
}

impl EventSink for Publisher {
    fn send(&self, event: Event) {
        let (container, worth) = (event.id.clone(), worth(&event));
        let (topic, any) = match message(event) {
            Ok(message) => message,
            Err(error) => {
                log::error!("an event is lost: {error}");
                return;
            }
        };
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(convert::timestamp(SystemTime::now())).into();
        envelope.namespace = self.0.namespace.clone();
        envelope.topic = topic.to_owned();
        envelope.event = Some(any).into();
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        if let Some(lost) = self.lock().push(container, worth, request) {
            let topic = &lost.envelope.topic;
            log::error!("a {topic} event is lost: containerd has been away for too long");
        }
        self.0.changed.notify_waiters();
    }
}

fn worth(event: &Event) -> Worth {
    match event.kind {
        EventKind::Created { .. } | EventKind::Deleted { .. } => Worth::Life,
        EventKind::Started { .. } | EventKind::Exited { .. } if event.exec_id.is_empty() => {
            Worth::Life
        }
        EventKind::Exited { .. } => Worth::ExecExit,
        EventKind::Started { .. }
        | EventKind::ExecAdded
        | EventKind::Paused
        | EventKind::Resumed
        | EventKind::OutOfMemory => Worth::Detail,
    }
}

/// An event with its topic, as containerd knows it.
fn message(event: Event) -> ttrpc::Result<(&'static str, Any)> {
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
            // The first process has the container's own id.
            message.id = if exec_id.is_empty() { id.clone() } else { exec_id };
            message.container_id = id;
            message.pid = convert::pid(pid);
            message.exit_status = exit.status;
            message.exited_at = Some(convert::timestamp(exit.at)).into();
            (topics::TASK_EXIT_EVENT_TOPIC, any("TaskExit", &message)?)
        }
        EventKind::Deleted { pid, exit } => {
            let mut message = TaskDelete::new();
            message.container_id = id;
            message.pid = convert::pid(pid);
            message.exit_status = exit.status;
            message.exited_at = Some(convert::timestamp(exit.at)).into();
            (topics::TASK_DELETE_EVENT_TOPIC, any("TaskDelete", &message)?)
        }
    })
}

fn any(name: &str, message: &impl Message) -> ttrpc::Result<Any> {
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

    /// A containerd that refuses the events of a topic with this code, and notes all that are sent to it.
    struct Containerd {
        refused: (&'static str, Code),
        sent: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let topic = request.envelope.topic.clone();
            self.sent.lock().unwrap().push(topic.clone());
            if topic == self.refused.0 {
                let status = ttrpc::get_status(self.refused.1, "a test");
                return Err(ttrpc::Error::RpcStatus(status));
            }
            Ok(Empty::new())
        }
    }

    /// Publishes an OOM and a pause to a containerd that refuses the first so, until it has the second or `enough` in all.
    async fn sent(code: Code, enough: usize) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}", directory.path().join("s").display());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let containerd =
            Containerd { refused: (topics::TASK_OOM_EVENT_TOPIC, code), sent: Arc::clone(&sent) };
        let mut server = Server::new().bind(&address).unwrap();
        server = server.register_service(create_events(Arc::new(containerd)));
        server.start().await.unwrap();
        let publisher = Publisher::start(&address, "default");
        for what in [EventKind::OutOfMemory, EventKind::Paused] {
            publisher.send(Event { id: "x".into(), exec_id: String::new(), what });
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
}
