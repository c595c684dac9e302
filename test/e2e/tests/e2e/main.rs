//! What a user is promised, tried on real containerd and real Docker. One file per subject.

mod api;
mod bad_input;
mod compose;
mod crash;
mod cri;
mod docker;
mod exec;
mod executable;
mod files;
mod ground;
mod limits;
mod network;
mod pause;
mod restart;
mod run;
mod signals;
mod stdio;
mod terminal;
mod update;
