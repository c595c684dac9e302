//! A container that runs in the background.

use crate::io::Outcome;
use crate::places::shared;
use crate::processes::{Process, managers, processes};
use crate::run::Daemon;
use crate::wait::{DEADLINE, wait_for, wait_until};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// A running container, or an ended one that was not removed yet. Dropping it removes the
/// container.
pub struct Container<'d> {
    daemon: &'d dyn Daemon,
    id: String,
    pub(crate) streams: Streams,
}

/// The streams of a container.
pub(crate) enum Streams {
    /// The test reads the container's fifos itself.
    Fifos { stdin: Option<File>, stdout: Arc<Mutex<Vec<u8>>>, stderr: Arc<Mutex<Vec<u8>>> },
    /// Docker keeps a log; `attach` carries the standard input.
    Docker { attach: Option<Child>, logs: Box<dyn Fn(&str) -> Outcome + Send + Sync>, to: AttachTo },
}

/// Starts a client that forwards its standard input to the container of this id.
pub(crate) type AttachTo = Box<dyn Fn(&str) -> Child + Send + Sync>;

impl<'d> Container<'d> {
    pub(crate) fn new(daemon: &'d dyn Daemon, id: &str, streams: Streams) -> Container<'d> {
        daemon.containerd().note_shim(daemon.containerd_namespace(), id);
        Container { daemon, id: id.to_owned(), streams }
    }

    /// The full id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pid of its first process on the host.
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.daemon.pid(&self.id).unwrap_or_else(|| panic!("{} does not run", self.id))
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.daemon.ended(&self.id)
    }

    /// Sends a signal, like `TERM` or `37`, and asserts that the daemon accepted it.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.try_kill(signal).success();
    }

    /// Sends a signal, like `TERM` or `37`.
    pub fn try_kill(&self, signal: &str) -> Outcome {
        self.daemon.kill(&self.id, signal)
    }

    /// Waits for its end and returns its exit code. Call it once: with `ctr`, deleting the task is
    /// the only way to the exit code.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        wait_until(&format!("the end of container {}", self.id), DEADLINE, || self.ended());
        self.daemon.take_exit_code(&self.id)
    }

    /// Removes it, killing it first if necessary, and asserts success.
    #[track_caller]
    pub fn remove(self) {
        self.daemon.remove(&self.id).success();
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        match &self.streams {
            Streams::Fifos { stdout, .. } => lock(stdout).clone(),
            Streams::Docker { logs, .. } => logs(&self.id).stdout,
        }
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> Vec<u8> {
        match &self.streams {
            Streams::Fifos { stderr, .. } => lock(stderr).clone(),
            Streams::Docker { logs, .. } => logs(&self.id).stderr,
        }
    }

    /// Waits until its standard output contains `text`.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) {
        wait_until(&format!("'{text}' in the output of {}", self.id), DEADLINE, || {
            let said = String::from_utf8_lossy(&self.stdout()).contains(text);
            assert!(
                said || !self.ended() || String::from_utf8_lossy(&self.stdout()).contains(text),
                "{} ended without saying '{text}': {}{}",
                self.id,
                String::from_utf8_lossy(&self.stdout()),
                String::from_utf8_lossy(&self.stderr())
            );
            said
        });
    }

    /// Writes to its standard input, which stays open.
    pub fn say(&mut self, bytes: &[u8]) {
        let written = match &mut self.streams {
            Streams::Fifos { stdin, .. } => {
                stdin.as_mut().expect("standard input is open").write_all(bytes)
            }
            Streams::Docker { attach, to, .. } => {
                let client = attach.get_or_insert_with(|| to(&self.id));
                client.stdin.as_mut().expect("piped").write_all(bytes)
            }
        };
        written
            .unwrap_or_else(|e| panic!("cannot write to the standard input of {}: {e}", self.id));
    }

    /// Closes the test's end of its standard input. With `ctr` the container sees the end of input
    /// only after the shim's CloseIO.
    pub fn close_input(&mut self) {
        match &mut self.streams {
            Streams::Fifos { stdin, .. } => drop(stdin.take()),
            Streams::Docker { attach, .. } => {
                drop(attach.as_mut().and_then(|client| client.stdin.take()))
            }
        }
    }

    /// The shim processes that serve it.
    pub fn shims(&self) -> Vec<Process> {
        let is_shim = |process: &Process| {
            process.program().starts_with("containerd-shim-")
                && process.command.split(' ').any(|word| word == self.id)
                && process.command.contains(self.daemon.containerd_namespace())
        };
        let own: Vec<Process> = processes().into_iter().filter(is_shim).collect();
        if !own.is_empty() || !shared() {
            return own;
        }
        let namespace = self.daemon.containerd_namespace();
        let mut managers = managers(&self.daemon.containerd().address());
        managers.retain(|process| process.command.contains(namespace));
        managers
    }

    /// The folder of its bundle, while it runs.
    pub fn bundle(&self) -> PathBuf {
        self.daemon.bundle(&self.id)
    }

    /// The path of its shim's socket, and the version of the Task API that the shim announced.
    pub fn shim_address(&self) -> (PathBuf, u32) {
        let bundle = self.bundle();
        shim_address(&bundle).unwrap_or_else(|| panic!("no shim's address in {}", bundle.display()))
    }
}

/// Reads a shim's address and API version from the files that containerd keeps in the bundle:
/// `bootstrap.json` since 1.7, `address` before.
pub(crate) fn shim_address(bundle: &Path) -> Option<(PathBuf, u32)> {
    let plain = |address: &str| PathBuf::from(address.trim().trim_start_matches("unix://"));
    if let Ok(text) = fs::read_to_string(bundle.join("bootstrap.json")) {
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        let version = json["version"].as_u64().unwrap_or(2);
        return Some((plain(json["address"].as_str()?), u32::try_from(version).ok()?));
    }
    Some((plain(&fs::read_to_string(bundle.join("address")).ok()?), 2))
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Streams::Docker { attach: Some(client), .. } = &mut self.streams {
            // The client may have ended by itself.
            let _ = client.kill();
            let _ = client.wait();
        }
        // After a failed test the reaper does this: a second panic would hide the first.
        if !thread::panicking() {
            self.daemon.remove(&self.id);
        }
    }
}

/// The fifos that `ctr run --detach --fifo-dir` created for a container.
pub(crate) struct Fifos {
    dir: PathBuf,
    stdin: File,
}

impl Fifos {
    /// Waits for the fifos, and holds the writing end of standard input, so that the container does
    /// not see its end when `ctr` exits. `given_up` returns true once the client has exited, after
    /// which no fifo appears.
    pub(crate) fn open(dir: &Path, id: &str, mut given_up: impl FnMut() -> bool) -> Option<Fifos> {
        let find = || {
            let found = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
            found.into_iter().find(|dir| dir.join(format!("{id}-stdin")).exists())
        };
        let dir = wait_for("the fifos of a new container", DEADLINE, || match find() {
            Some(dir) => Some(Some(dir)),
            None => given_up().then(&find),
        })?;
        // For reading and writing: such an open does not wait for the other side.
        let stdin =
            File::options().read(true).write(true).open(dir.join(format!("{id}-stdin"))).ok()?;
        Some(Fifos { dir, stdin })
    }

    /// Reads both outputs from now on, appending to the output that the client has read itself.
    pub(crate) fn drain(self, id: &str, before: &Outcome) -> Streams {
        let stdout = drain(self.dir.join(format!("{id}-stdout")), before.stdout.clone());
        let stderr = drain(self.dir.join(format!("{id}-stderr")), before.stderr.clone());
        Streams::Fifos { stdin: Some(self.stdin), stdout, stderr }
    }
}

/// Collects the output of a fifo on a thread, which ends when the last writer closes the fifo.
fn drain(path: PathBuf, before: Vec<u8>) -> Arc<Mutex<Vec<u8>>> {
    let collected = Arc::new(Mutex::new(before));
    let Ok(mut fifo) = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
    else {
        return collected;
    };
    let into = Arc::clone(&collected);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match fifo.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => lock(&into).extend_from_slice(&buffer[..read]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(2))
                }
                Err(_) => return,
            }
        }
    });
    collected
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
