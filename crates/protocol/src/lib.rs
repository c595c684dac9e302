//! The messages between the daemon, the engine host, the guest and the compiler.
//!
//! - [`message`]: daemon and engine host, and daemon and guest, over a [`Channel`].
//! - [`options`]: the runtime's options, which travel from the client to the engine host.
//! - [`compile`]: the arguments and exit codes of the compiler.
//! - [`failure`]: why a container cannot run. [`error_text`]: libcontainer's errors as sentences.

pub mod channel;
pub mod compile;
pub mod error_text;
pub mod failure;
pub mod message;
pub mod options;

pub use channel::{Channel, Packet};
pub use failure::{Failure, FailureKind};
pub use message::{
    CreateRequest, ExecRequest, HostReply, HostRequest, Mount, SetupMessage, SetupReply, Stdio,
};
pub use options::RuntimeOptions;
