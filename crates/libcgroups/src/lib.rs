//! libcgroups, with a hook for the way in which a process enters its cgroup.
//!
//! libcontainer calls libcgroups by name, and libcgroups' way of moving a process is the slowest
//! part of a container's start: see [`common::enter_by`]. Everything else is re-exported from
//! libcgroups.

pub mod common;

pub use theirs::{stats, systemd, test_manager, v1, v2};
