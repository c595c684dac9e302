//! The thread that holds the namespaces of a pod.
//!
//! The kernel keeps the namespaces of each thread apart, and `/proc/TID/ns` exists for every
//! thread. So one parked thread replaces the pause process: it costs no process and no executable,
//! and the rest of the daemon, with the hooks and engine hosts that it starts, stays in the host's
//! namespaces. It ends with the daemon; the namespaces then last as long as the containers in them.

use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;

use nix::unistd::gettid;

use super::namespaces::{EnterError, PodNamespaces};

/// The size of its stack, bytes. It formats an error at most.
const STACK: usize = 64 << 10;

/// A thread in the namespaces of a pod. It ends when this is dropped.
#[derive(Debug)]
pub struct HolderThread {
    id: i32,
    _end: Sender<()>,
}

impl HolderThread {
    /// Its id, which is a valid pid below `/proc`.
    pub(super) fn id(&self) -> i32 {
        self.id
    }
}

/// Starts a thread that enters the namespaces and stays in them.
pub(super) fn spawn(namespaces: PodNamespaces) -> Result<HolderThread, EnterError> {
    let (entered, answer) = channel();
    let (end, ended) = channel::<()>();
    Builder::new()
        .name("pod".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let result = namespaces.enter().map(|()| gettid().as_raw());
            drop(namespaces);
            let stays = result.is_ok();
            // The receiver waits below.
            let _ = entered.send(result);
            if stays {
                // Fails when the sender is dropped: the pod has ended.
                let _ = ended.recv();
            }
        })
        .map_err(EnterError::Thread)?;
    let id = answer.recv().unwrap_or_else(|_| {
        Err(EnterError::Thread(std::io::Error::other("it ended before it had entered")))
    })?;
    Ok(HolderThread { id, _end: end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn namespace(pid: &str, kind: &str) -> Option<std::path::PathBuf> {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
    }

    #[test]
    fn the_namespaces_are_those_of_the_thread_alone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let namespaces = PodNamespaces {
            ipc: true,
            uts: true,
            hostname: Some("pod".to_owned()),
            sysctls: vec![("kernel.shm_rmid_forced".to_owned(), "1".to_owned())],
            ..PodNamespaces::default()
        };
        let own = namespace("thread-self", "ipc");
        let thread = spawn(namespaces).unwrap();
        let id = thread.id().to_string();
        for kind in ["ipc", "uts"] {
            assert_ne!(namespace(&id, kind), namespace("thread-self", kind), "{kind}");
        }
        assert_eq!(namespace(&id, "net"), namespace("thread-self", "net"));
        assert_eq!(namespace("thread-self", "ipc"), own);
        drop(thread);
        while namespace(&id, "ipc").is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let sysctls = vec![("net.no_such".to_owned(), "1".to_owned())];
        let error = spawn(PodNamespaces { sysctls, ..PodNamespaces::default() }).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot set sysctl net.no_such to \"1\": "),
            "{error}"
        );
    }
}
