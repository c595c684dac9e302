//! A Kubernetes cluster of two nodes on this machine, and what its tests share.
//!
//! - [`Cluster`] is etcd, a control plane and nodes of the real programs, which `test/k8s/build.sh`
//!   builds. Each node is a set of network, mount and pid namespaces, so that two kubelets and
//!   two containerds find the folders, sockets and ports that they expect, and all of it ends with
//!   one process.
//! - [`Space`] is a namespace of the API for one test, [`Pod`] a pod in it, [`Kind`] says what runs
//!   it: Wherry or runc.
//! - [`Api`] is a client of the API server, [`Cluster::kubectl`] the command that people use.
//!
//! Everything here panics with a sentence when the ground under a test is not as it must be.

mod api;
mod cluster;
mod control;
pub mod critest;
mod images;
mod machine;
mod network;
mod node;
mod pki;
pub mod pod;
mod registry;
mod space;

pub use api::{Answer, Api};
pub use cluster::Cluster;
pub use images::{IMAGES, Kind};
pub use machine::Machine;
pub use node::{Node, Preparation, Sandboxer, sandboxer};
pub use pod::Pod;
pub use space::Space;

use std::time::Duration;

/// How long the control plane and the kubelets may take for something. The machine has two
/// processors, and other tests make pods at the same time.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Makes two tests of each function that takes a [`Kind`]: `wasm::NAME` and `runc::NAME`.
#[macro_export]
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod wasm {
            $(#[test] fn $test() { super::$test($crate::Kind::Wasm); })*
        }
        mod runc {
            $(#[test] fn $test() { super::$test($crate::Kind::Runc); })*
        }
    };
}
