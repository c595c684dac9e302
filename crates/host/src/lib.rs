//! The engine host: the process that has an engine loaded and forks guests.
//!
//! It serves one daemon over the socket that is its standard input, one request after the other, on
//! a single thread, because it forks. A guest is forked as the *daemon's* child, so it outlives the
//! host.
//!
//! A request flows through [`serve`] to [`create`] or [`exec`], from there through libcontainer
//! into the container's namespaces, where [`guest`] loads the program and runs it. This is the only
//! crate that uses libcontainer.

mod apparmor;
mod cgroup;
mod clone;
mod confinement;
mod console;
mod create;
mod error;
mod exec;
pub mod filter;
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
mod hook_proxy;
mod keyring;
mod libcontainer_state;
mod main_function;
mod mount;
mod mount_namespace;
mod mount_options;
mod mount_tree;
mod namespaces;
pub mod nss;
mod own_executable;
pub mod plugins;
mod pod_files;
mod privileges;
mod program;
mod propagation;
mod seccomp_listener;
mod serve;
pub mod signals;
mod spec_rewrite;
mod staged_binds;
mod tracing_bridge;
mod userns;
pub mod validate;
mod zygote;

use std::fs;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

pub use hook_proxy::{HOOKS, hooks};
pub use main_function::main;

/// Takes ownership of a descriptor that the kernel has just opened for this process.
#[allow(unsafe_code)]
fn adopt(number: i32) -> OwnedFd {
    // SAFETY: no one else has its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Borrows a descriptor for one call.
#[allow(unsafe_code)]
fn borrow(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: used for the call that it is passed to, on a descriptor that stays open.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Whether `path` exists and is not a directory. Follows symbolic links.
#[must_use]
pub fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| !meta.is_dir())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_start_socket_is_libcontainers() {
        let ours = wherry_bundle::START_SOCKET;
        assert_eq!(ours, libcontainer::notify_socket::NOTIFY_FILE);
    }
}
