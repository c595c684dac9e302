//! Events to containerd, in their order, each until containerd has it.
//!
//! containerd may be away: what happens meanwhile is kept and told when it is back. The queue is
//! bounded; a container makes five events in its life, so this is much more than a long absence
//! needs, and what does not fit is the oldest news.

use std::collections::VecDeque;
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
use wherry_container::{Event, EventSink, What};

use crate::convert;

const QUEUE_MAX: usize = 8192;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// containerd answers in microseconds; one that hangs is not asked for ever.
const ANSWER: Duration = Duration::from_secs(5);

/// Publishes events to containerd. Clones share the queue.
#[derive(Clone)]
pub struct Publisher(Arc<Queue>);

struct Queue {
    namespace: String,
    waiting: Mutex<VecDeque<ForwardRequest>>,
    changed: Notify,
}

impl Publisher {
    /// Publishes to the ttrpc socket at `address` (a path, or `unix://` and a path) in the name
    /// of `namespace`. Must be called within the runtime.
    #[must_use]
    pub fn start(address: &str, namespace: &str) -> Publisher {
        let publisher = Publisher(Arc::new(Queue {
            namespace: namespace.to_owned(),
            waiting: Mutex::default(),
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
            // It stays in the queue until it is told.
            let Some(request) = self.lock().front().cloned() else {
                changed.await;
                continue;
            };
            match tell(&mut client, &address, &request).await {
                Ok(()) => {
                    self.lock().pop_front();
                    self.0.changed.notify_waiters();
                    pause = RETRY_FIRST;
                }
                Err(error) => {
                    log::debug!("cannot tell {}: {error}", request.envelope.topic);
                    client = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
            }
        }
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, VecDeque<ForwardRequest>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        {
            let mut waiting = self.lock();
            if waiting.len() == QUEUE_MAX {
                waiting.pop_front();
                log::error!("an event is lost: containerd has been away for too long");
            }
            waiting.push_back(request);
        }
        self.0.changed.notify_waiters();
    }
}

/// An event with its topic, as containerd knows it.
fn message(event: Event) -> ttrpc::Result<(&'static str, Any)> {
    let Event { id, exec_id, what } = event;
    Ok(match what {
        What::Created { bundle, rootfs, stdio, terminal, pid } => {
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
        What::ExecAdded => {
            let mut message = TaskExecAdded::new();
            message.container_id = id;
            message.exec_id = exec_id;
            (topics::TASK_EXEC_ADDED_EVENT_TOPIC, any("TaskExecAdded", &message)?)
        }
        What::Started { pid } if exec_id.is_empty() => {
            let mut message = TaskStart::new();
            message.container_id = id;
            message.pid = convert::pid(pid);
            (topics::TASK_START_EVENT_TOPIC, any("TaskStart", &message)?)
        }
        What::Started { pid } => {
            let mut message = TaskExecStarted::new();
            message.container_id = id;
            message.exec_id = exec_id;
            message.pid = convert::pid(pid);
            (topics::TASK_EXEC_STARTED_EVENT_TOPIC, any("TaskExecStarted", &message)?)
        }
        What::Paused => {
            let mut message = TaskPaused::new();
            message.container_id = id;
            (topics::TASK_PAUSED_EVENT_TOPIC, any("TaskPaused", &message)?)
        }
        What::Resumed => {
            let mut message = TaskResumed::new();
            message.container_id = id;
            (topics::TASK_RESUMED_EVENT_TOPIC, any("TaskResumed", &message)?)
        }
        What::OutOfMemory => {
            let mut message = TaskOOM::new();
            message.container_id = id;
            (topics::TASK_OOM_EVENT_TOPIC, any("TaskOOM", &message)?)
        }
        What::Exited { pid, exit } => {
            let mut message = TaskExit::new();
            // The first process has the container's own id.
            message.id = if exec_id.is_empty() { id.clone() } else { exec_id };
            message.container_id = id;
            message.pid = convert::pid(pid);
            message.exit_status = exit.status;
            message.exited_at = Some(convert::timestamp(exit.at)).into();
            (topics::TASK_EXIT_EVENT_TOPIC, any("TaskExit", &message)?)
        }
        What::Deleted { pid, exit } => {
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

fn mount(mount: wherry_sandbox::Mount) -> types::mount::Mount {
    let mut message = types::mount::Mount::new();
    message.type_ = mount.fstype;
    message.source = mount.source;
    message.target = mount.target;
    message.options = mount.options;
    message
}
