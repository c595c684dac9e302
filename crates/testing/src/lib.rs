//! What the end-to-end tests stand on: private daemons, images built in code, and guests.
//!
//! - [`Containerd`] and [`Docker`] start a daemon of a given version with a folder, sockets, cgroups and
//!   (Docker) a network namespace of its own, and end all of it when they are dropped, or when the test
//!   process dies, however it dies.
//! - [`Daemon`] is what both can do, so that one test body runs against every daemon; [`Run`] says what to
//!   run, [`Outcome`] and [`Container`] are what came of it.
//! - [`Client`] is a call of `docker` or `ctr` that runs beside the test.
//! - [`Image`] builds an OCI image, [`guests`] compiles the guests of `test/guests`.
//! - [`Usage`] is what containers take, [`Trace`] what their processes ask of the kernel.
//! - [`wait_until`] waits for a condition with a deadline; [`Leftovers`] proves that nothing stayed behind.
//!
//! Everything here panics with a sentence when the ground under a test is not as it must be.

mod busybox;
mod cgroups;
mod client;
mod container;
mod containerd;
mod ctr;
mod docker;
mod engine;
mod events;
pub mod guests;
mod image;
mod io;
mod leftovers;
mod places;
mod process;
mod processes;
mod run;
mod scope;
mod terminal;
mod trace;
mod usage;
mod wait;

pub use busybox::busybox;
pub use cgroups::cgroup_parent;
pub use client::{Client, TERMINAL_SIZE};
pub use container::Container;
pub use containerd::{Containerd, ContainerdVersion};
pub use docker::{Docker, DockerVersion};
pub use engine::{Capability, can, engine_can};
pub use events::Events;
pub use image::{Image, Packed};
pub use io::{Outcome, call};
pub use leftovers::Leftovers;
pub use places::{bin_dir, cache_dir, daemon_bin, engine, repository, runtime, systemd_cgroups};
pub use processes::{Process, processes};
pub use run::{Daemon, Run};
pub use scope::Scope;
pub use terminal::Typed;
pub use trace::Trace;
pub use usage::{Usage, stripped_size};
pub use wait::{DEADLINE, wait_for, wait_until};
