//! libcgroups, with a say in how a process enters its cgroup.
//!
//! libcontainer calls libcgroups by name, and the way in which that moves a process is the slowest part of a
//! container's start: see [`common::enter_by`]. All else is libcgroups' own, handed on.

pub mod common;

pub use theirs::{stats, systemd, test_manager, v1, v2};
