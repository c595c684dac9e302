//! The base of the end-to-end tests: private daemons, images built in code, and guests.
//!
//! - [`Containerd`] and [`Docker`] start a daemon of a given version with a private folder,
//!   sockets, cgroups and (Docker) network namespace. All of it ends when the value is dropped, or
//!   when the test process dies.
//! - [`Daemon`] is the interface of both, so that one test body runs against every daemon; [`Run`]
//!   describes a container, [`Outcome`] and [`Container`] are its results.
//! - [`Client`] is a call of `docker` or `ctr` that runs beside the test.
//! - [`Image`] builds an OCI image, [`guests`] compiles the guests of `test/guests`, [`examples`]
//!   builds those of `examples/`.
//! - [`Usage`] measures the processes of containers, [`Trace`] records their system calls.
//! - [`wait_until`] waits for a condition with a deadline; [`Leftovers`] proves that nothing stayed
//!   behind.
//!
//! Everything here panics with a sentence if a precondition of the test does not hold.

mod busybox;
mod cgroups;
mod client;
mod container;
mod containerd;
mod ctr;
mod docker;
mod engine;
mod events;
pub mod examples;
pub mod guests;
mod image;
mod io;
mod leftovers;
mod places;
mod process;
mod processes;
mod proxy;
pub mod registry;
mod run;
mod scope;
mod terminal;
mod trace;
mod usage;
mod wait;

pub use busybox::busybox;
pub use cgroups::{cgroup_parent, remove_cgroup};
pub use client::{Client, TERMINAL_SIZE};
pub use container::Container;
pub use containerd::{Containerd, ContainerdVersion, Handler};
pub use docker::{Docker, DockerVersion};
pub use engine::{Capability, can, engine_can};
pub use events::Events;
pub use image::{Image, Packed};
pub use io::{Outcome, call, call_within};
pub use leftovers::Leftovers;
pub use places::{
    bin_dir, cache_dir, daemon_bin, engine, repository, runtime, runtime_of, shared, shim_program,
    systemd_cgroups,
};
pub use process::SHIM_SANDBOXER;
pub use processes::{Process, managers, processes};
pub use proxy::{Action, Proxy, Request};
pub use registry::Registry;
pub use run::{Daemon, Run};
pub use scope::Scope;
pub use terminal::Typed;
pub use trace::Trace;
pub use usage::{Usage, stripped_size};
pub use wait::{DEADLINE, wait_for, wait_until};
