//! The containerd Task API over ttrpc: the only crate that knows the wire.
//!
//! A request becomes plain types in [`rpc`], one file for each, and goes to the container that it
//! names. What happens to containers goes to containerd as events. Errors become codes in one
//! place, and protobuf messages are made in one place.
//!
//! Specification: `api/runtime/task/v3/shim.proto` of containerd; version 2 of the API has the
//! same messages and methods under another package name.

mod convert;
mod error;
mod events;
mod method;
pub mod options;
mod queue;
mod registry;
mod rpc;
mod service;
mod stats;

pub use events::Publisher;
pub use options::parse as parse_options;
pub use service::{Service, services};
