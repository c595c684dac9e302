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
mod hooks;
mod limits;
mod mounts;
mod network;
mod options;
mod pause;
mod privileges;
mod restart;
mod run;
mod sharing;
mod signals;
mod stdio;
mod terminal;
mod update;
mod userns;
