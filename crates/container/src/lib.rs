//! The life of one container.
//!
//! [`state`] says which states there are and what may follow on what; it is pure. [`Container`]
//! is the handle that everybody else has: its queries read a snapshot, its requests go to the
//! actor, the one task that changes the state. What happens is told as [`Event`]s, in order.

mod actor;
mod code;
mod create;
mod event;
mod exec;
mod handle;
pub mod state;
mod unread;

pub use create::{Config, Runtime};
pub use event::{Event, EventSink, What};
pub use exec::{Exec, ExecConfig};
pub use handle::{Container, Error, Snapshot};
pub use state::{Refused, State};
pub use wherry_sandbox::process::Exit;
