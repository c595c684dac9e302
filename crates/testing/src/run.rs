//! The container to run, and the interface of a daemon: the vocabulary of all tests.

use crate::container::Container;
use crate::containerd::Containerd;
use crate::image::{Image, Packed};
use crate::io::Outcome;
use crate::places;
use crate::terminal::Typed;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A container to run: an image and the user's settings.
#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) image: Packed,
    pub(crate) runtime: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Option<f64>,
    pub(crate) binds: Vec<(PathBuf, String, bool)>,
    pub(crate) tmpfs: Vec<String>,
    pub(crate) netns: Option<String>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) extra: Vec<String>,
    pub(crate) config: Option<Value>,
}

impl Run {
    /// Runs the image under the engine under test.
    pub fn new(image: &Image) -> Run {
        Run {
            image: image.pack(),
            runtime: places::runtime(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            read_only: false,
            memory: None,
            cpus: None,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            netns: None,
            stdin: None,
            extra: Vec::new(),
            config: None,
        }
    }

    /// Runs it under another runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: &str) -> Run {
        self.runtime = runtime.to_owned();
        self
    }

    /// Arguments, in place of the image's default ones.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: &[S]) -> Run {
        self.args.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Run {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, path: &str) -> Run {
        self.cwd = Some(path.to_owned());
        self
    }

    /// Makes the root filesystem read-only.
    #[must_use]
    pub fn read_only(mut self) -> Run {
        self.read_only = true;
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Run {
        self.memory = Some(bytes);
        self
    }

    /// Limits CPU time, in CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Run {
        self.cpus = Some(cpus);
        self
    }

    /// Mounts a folder or file of the host, writable.
    #[must_use]
    pub fn bind(mut self, host: &Path, inside: &str) -> Run {
        self.binds.push((host.to_owned(), inside.to_owned(), true));
        self
    }

    /// Mounts a folder or file of the host, read-only.
    #[must_use]
    pub fn bind_read_only(mut self, host: &Path, inside: &str) -> Run {
        self.binds.push((host.to_owned(), inside.to_owned(), false));
        self
    }

    /// Mounts an empty tmpfs.
    #[must_use]
    pub fn tmpfs(mut self, inside: &str) -> Run {
        self.tmpfs.push(inside.to_owned());
        self
    }

    /// With `ctr`: joins the named network namespace. Docker makes its own.
    #[must_use]
    pub fn network_namespace(mut self, name: &str) -> Run {
        self.netns = Some(name.to_owned());
        self
    }

    /// Sets the content of standard input, which then ends.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = Some(bytes.into());
        self
    }

    /// With `ctr`: runs this complete configuration, including the path of the root filesystem. The
    /// cgroup's path is added.
    #[must_use]
    pub fn config(mut self, config: Value) -> Run {
        self.config = Some(config);
        self
    }

    /// Adds words to the command line of `docker run` or `ctr run`, for options that only one of
    /// them has.
    #[must_use]
    pub fn extra(mut self, words: &[&str]) -> Run {
        self.extra.extend(words.iter().map(|&word| word.to_owned()));
        self
    }
}

/// A daemon that runs containers: containerd through `ctr`, or dockerd through `docker`.
pub trait Daemon: Send + Sync {
    /// Its name and version, for messages.
    fn name(&self) -> String;

    /// Whether it is Docker, for promises that differ.
    fn is_docker(&self) -> bool;

    /// The containerd that runs the shims: itself, or the one under Docker.
    fn containerd(&self) -> &Containerd;

    /// Imports the image, once.
    fn load(&self, image: &Packed);

    /// Runs a container in the foreground, to its end, and removes it, as `docker run --rm -i`
    /// does.
    fn run(&self, run: &Run) -> Outcome;

    /// Starts a container in the background.
    ///
    /// # Errors
    /// The client's outcome if Create or Start failed; then nothing of the container remains.
    fn try_start(&self, run: &Run) -> Result<Container<'_>, Outcome>;

    /// The pid of the container's first process on the host, while it runs.
    fn pid(&self, id: &str) -> Option<i32>;

    /// Whether the container has ended, or never existed.
    fn ended(&self, id: &str) -> bool;

    /// Sends a signal, like `TERM` or `37`.
    fn kill(&self, id: &str, signal: &str) -> Outcome;

    /// Runs another process in a container, to its end, with `stdin` as its standard input.
    fn exec(&self, id: &str, words: &[&str], stdin: &[u8]) -> Outcome;

    /// Runs another process in a container, in a terminal. Both outputs are merged, as the terminal
    /// shows them.
    fn exec_in_terminal(&self, id: &str, words: &[&str], typed: &Typed<'_>) -> Outcome;

    /// Runs a container in a terminal, to its end, and removes it.
    fn run_in_terminal(&self, run: &Run, typed: &Typed<'_>) -> Outcome;

    /// Pauses or resumes a container.
    fn freeze(&self, id: &str, frozen: bool) -> Outcome;

    /// Returns the exit code of an ended container; with `ctr` this deletes the task.
    fn take_exit_code(&self, id: &str) -> i32;

    /// Removes the container, killing it first if necessary. A missing container is not an error.
    fn remove(&self, id: &str) -> Outcome;

    /// The path of a running container's bundle.
    fn bundle(&self, id: &str) -> PathBuf {
        self.containerd().task_dir(self.containerd_namespace()).join(id)
    }

    /// The containerd namespace of its containers.
    fn containerd_namespace(&self) -> &str;

    /// Starts a container in the background.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    fn start(&self, run: &Run) -> Container<'_> {
        match self.try_start(run) {
            Ok(container) => container,
            Err(outcome) => panic!("{} cannot start a container: {outcome}", self.name()),
        }
    }
}
