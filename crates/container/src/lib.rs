//! The life of a container, and of each process that is added to it.
//!
//! [`state`] has the states and the valid transitions; it is pure. [`Container`] and [`Exec`] are
//! the handles of the Task API: queries read a snapshot, requests go to the actor, the one task
//! that changes the state. Every change is published as an [`Event`], in order. The work itself is
//! done by the supervisor, on threads. [`Pod`] is the handle of a pod that this daemon makes.
//! [`SuspendedContainer`] hands a container over to the next version of this executable.

mod actor;
mod create;
mod event;
mod exec;
mod handle;
mod handover;
mod log_file;
mod oom;
mod operations;
mod pod;
mod reap;
pub mod state;
mod stdio;
mod terminal;
pub mod thread;
mod unread;

pub use create::{Config, Runtime};
pub use event::{Event, EventKind, EventSink};
pub use exec::Exec;
pub use handle::{Container, Error, Snapshot};
pub use handover::{SavedContainer, SuspendedContainer};
pub use pod::{Pod, PodRefused, PodState};
pub use reap::reap_children;
pub use state::{Refused, State};
pub use stdio::StdioPaths;
pub use wherry_supervisor::create::ContainerConfig;
pub use wherry_supervisor::exec::ExecConfig;
pub use wherry_supervisor::pod::{PodConfig, PodNamespaces};
pub use wherry_sys::process::Exit;
