//! libcgroups, with a hook for the way in which a process joins its cgroup.
//!
//! libcontainer calls libcgroups by name, and the way in which libcgroups moves a process is the
//! slowest step of a container's start: see [`common::enter_by`]. This crate takes the place of
//! libcgroups (`[patch.crates-io]`) and re-exports the rest of it.

pub mod common;

pub use theirs::{stats, systemd, test_manager, v1, v2};
