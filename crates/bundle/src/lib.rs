//! A bundle: the directory with a container's `config.json` and with everything that Wherry keeps
//! of the container on disk.
//!
//! - [`Bundle`]: the paths in it. [`config`]: the fields of the configuration that the daemon
//!   reads. [`parse`]: JSON, with the path of an invalid field.
//! - [`hooks`]: the OCI hooks. [`setup_lock`]: the lock that cleanup takes exclusively.

mod bundle;
pub mod config;
pub mod hooks;
mod json;
pub mod setup_lock;

pub use bundle::{Bundle, BundleError, START_SOCKET};
pub use config::{Config, SANDBOX_ID};
pub use json::{ParseError, parse};
pub use setup_lock::SetupLock;
