//! The containerd Task and Sandbox APIs over ttrpc: the only crate that knows the wire.
//!
//! Each file of [`rpc`] converts one request to plain types and passes it to the container that the
//! request names. [`events`] publishes to containerd. `error` maps each cause to an RPC code,
//! `convert` builds protobuf messages, `registry` and `lifecycle` decide when the daemon ends.
//! [`handover`] saves and restores all of it for the next version of this executable.
//!
//! Specification: `api/runtime/task/v3/shim.proto` of containerd. Version 2 of the API has the same
//! messages and methods under another package name. [`sandbox`] has the Sandbox API:
//! `api/runtime/sandbox/v1/sandbox.proto`.

mod census;
mod connections;
mod convert;
mod error;
mod events;
mod frames;
mod handover;
mod lifecycle;
mod method;
pub mod options;
mod queue;
#[cfg(test)]
mod random;
mod registry;
mod rpc;
pub mod sandbox;
mod service;
mod stats;
mod upgrade;

pub use census::Census;
pub use connections::{Connected, Connections, RestoredConnection};
pub use events::Publisher;
pub use handover::{NotSuspended, SavedService, SuspendedService};
pub use lifecycle::Lifetime;
pub use options::OptionsError;
pub use service::{Service, services};
pub use upgrade::{AskError, DaemonClient, DaemonStatus, UpgradeRequest, daemon_service};
