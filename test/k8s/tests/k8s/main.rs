//! What a user of Kubernetes is promised, tried on a real cluster. One file per subject; most tests
//! run twice, with a wasm guest under Wherry and with a native program under runc.

mod bench;
mod chart;
mod conformance;
mod crowds;
mod daemons;
mod endings;
mod examples;
mod members;
mod mounts;
mod network;
mod probes;
mod resources;
mod security;
mod streams;
mod volumes;
