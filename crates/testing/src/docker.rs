//! A private dockerd on a private containerd, in a separate network namespace.

use crate::cgroups::cgroup_parent;
use crate::container::{Container, Streams};
use crate::containerd::{Containerd, ContainerdVersion, Setup};
use crate::image::Packed;
use crate::io::{Outcome, call, line_of};
use crate::places::{self, systemd_cgroups};
use crate::process::{in_network_namespace, terminate};
use crate::run::{Daemon, Run};
use crate::scope::Scope;
use crate::terminal::{Typed, in_terminal};
use crate::wait::{DEADLINE, wait_until};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// The versions of Docker under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DockerVersion {
    /// 26, of Debian 13, with containerd 1.7.
    V26,
    /// 28, of Debian unstable, with containerd 2.x.
    V28,
    /// 29, built from its Go module, with containerd 2.4 and the client of 28.
    V29,
}

impl DockerVersion {
    /// The name in `test/setup/daemons.sh`.
    pub fn name(self) -> &'static str {
        match self {
            DockerVersion::V26 => "docker-26",
            DockerVersion::V28 => "docker-28",
            DockerVersion::V29 => "docker-29",
        }
    }

    /// The runc of its native containers: that of 29 must know time namespaces.
    fn runc(self) -> &'static str {
        match self {
            DockerVersion::V26 | DockerVersion::V28 => "runc",
            DockerVersion::V29 => "runc-1.3",
        }
    }

    fn containerd(self) -> ContainerdVersion {
        match self {
            DockerVersion::V26 => ContainerdVersion::V1_7,
            DockerVersion::V28 => ContainerdVersion::V2,
            DockerVersion::V29 => ContainerdVersion::V2_4,
        }
    }
}

/// A dockerd with a private folder, containerd and network namespace: its bridges and packet
/// filters collide neither with those of another one nor with the machine's. No runtime is
/// configured: it resolves `io.containerd.<engine>.v1` through PATH.
pub struct Docker {
    version: DockerVersion,
    process: Mutex<Child>,
    loaded: Mutex<HashMap<String, Arc<OnceLock<()>>>>,
    namespace: String,
    // Last: dropping it removes the folder.
    containerd: Containerd,
}

impl Docker {
    /// Starts one for a single test.
    pub fn start(version: DockerVersion) -> Docker {
        Docker::start_with(version, json!({}))
    }

    /// Like [`Docker::start`], with more keys in its `daemon.json`.
    pub fn start_with(version: DockerVersion, keys: Value) -> Docker {
        Docker::start_where(version, keys, None)
    }

    /// Like [`Docker::start`], with a user namespace for each container. `user` is the value of
    /// `userns-remap`; its subordinate ids begin at `first`. The machine's /etc is not changed.
    pub fn start_remapped(version: DockerVersion, user: &str, first: u32) -> Docker {
        Docker::start_where(version, json!({"userns-remap": user}), Some((user, first)))
    }

    fn start_where(version: DockerVersion, keys: Value, remap: Option<(&str, u32)>) -> Docker {
        let scope = Scope::new(version.name());
        let netns = scope.add_network_namespace();
        let daemons = [version.containerd().name(), version.name(), version.runc()];
        let etc = remap.map(|(user, first)| {
            let etc = scope.root().join("etc");
            write_ids(&etc, if user == "default" { "dockremap" } else { user }, first);
            etc
        });
        let setup = Setup { netns: Some(netns), etc, ..Setup::default() };
        let containerd = Containerd::start_in(version.containerd(), scope, &daemons, setup);

        let root = containerd.root();
        // Docker 29 has no user namespaces with containerd's image store.
        let image_store = version != DockerVersion::V29 || remap.is_none();
        let mut config = json!({
            "features": {"containerd-snapshotter": image_store},
            "cgroup-parent": cgroup_parent(containerd.scope().name()),
            "exec-opts": [format!("native.cgroupdriver={}", if systemd_cgroups() { "systemd" } else { "cgroupfs" })],
            "data-root": root.join("data"),
            "exec-root": root.join("exec"),
            "pidfile": root.join("docker.pid"),
            "hosts": [format!("unix://{}", root.join("d.sock").display())],
            "containerd": containerd.address(),
            // A missing image is a fault of the test: no registry is asked.
            "registry-mirrors": [],
        });
        for (key, value) in keys.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        fs::write(root.join("daemon.json"), config.to_string())
            .expect("the scope's folder is writable");
        let plugins = places::daemon_bin(version.name()).join("../usr/libexec/docker/cli-plugins");
        fs::create_dir_all(root.join("client")).expect("the scope's folder is writable");
        let client = json!({"cliPluginsExtraDirs": [plugins]});
        fs::write(root.join("client/config.json"), client.to_string())
            .expect("the scope's folder is writable");

        let process = Mutex::new(spawn(&containerd));
        let namespace =
            remap.map_or_else(|| "moby".to_owned(), |(_, first)| format!("moby.{first}.{first}"));
        let loaded = Mutex::default();
        let docker = Docker { version, process, loaded, namespace, containerd };
        docker.wait_ready();
        docker
    }

    /// The instance that the tests of this process share.
    pub fn shared(version: DockerVersion) -> &'static Docker {
        static SHARED: [OnceLock<Docker>; 3] = [const { OnceLock::new() }; 3];
        let shared = SHARED[version as usize].get_or_init(|| Docker::start(version));
        shared.containerd.scope().mark_used();
        shared
    }

    /// A `docker` call.
    pub fn docker(&self, args: &[&str]) -> Outcome {
        call(self.docker_command(args), None)
    }

    /// The command of a `docker` call, for a test that drives it itself.
    pub fn docker_command(&self, args: &[&str]) -> Command {
        self.containerd.scope().mark_used();
        let root = self.containerd.root();
        let mut command = Command::new(places::daemon_bin(self.version.name()).join("docker"));
        command
            .args(["--config", &root.join("client").display().to_string()])
            .args(["--host", &format!("unix://{}", root.join("d.sock").display())])
            .args(args);
        command
    }

    /// Runs a program of the host in the network namespace in which Docker publishes ports.
    pub fn beside(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.containerd.scope().name())).args(words);
        call(command, None)
    }

    /// Kills dockerd with SIGKILL; its containers continue.
    pub fn kill9(&self) {
        let mut process = self.process.lock().unwrap_or_else(|p| p.into_inner());
        process.kill().expect("our own child");
        process.wait().expect("our own child");
    }

    /// Ends dockerd by SIGTERM, as a service manager does; dockerd stops its containers.
    pub fn stop(&self) {
        terminate(&mut self.process.lock().unwrap_or_else(|p| p.into_inner()));
    }

    /// Restarts dockerd after [`Docker::kill9`] or [`Docker::stop`].
    pub fn start_again(&self) {
        *self.process.lock().unwrap_or_else(|p| p.into_inner()) = spawn(&self.containerd);
        self.wait_ready();
    }

    /// Creates a container without starting it.
    ///
    /// # Panics
    /// If the container cannot be created.
    #[track_caller]
    pub fn create(&self, run: &Run) -> Container<'_> {
        self.make(&["create"], run)
            .unwrap_or_else(|outcome| panic!("{} cannot create: {outcome}", self.version.name()))
    }

    /// A `docker run` call with these words before the options, for a test that drives it itself.
    pub fn run_command(&self, words: &[&str], run: &Run) -> Command {
        self.load(&run.image);
        let rest = Docker::run_words(run);
        let mut args = [&["run"], words].concat();
        args.extend(rest.iter().map(String::as_str));
        self.docker_command(&args)
    }

    /// One field of a container, as `docker inspect --format` prints it.
    pub fn inspect(&self, id: &str, format: &str) -> Option<String> {
        let outcome = self.docker(&["container", "inspect", "--format", format, id]);
        (outcome.code == 0).then(|| outcome.out().trim().to_owned())
    }

    fn wait_ready(&self) {
        wait_until(&format!("{} answers", self.version.name()), DEADLINE, || {
            if let Ok(Some(status)) =
                self.process.lock().unwrap_or_else(|p| p.into_inner()).try_wait()
            {
                let log = self.containerd.log_path().display();
                panic!("{} ended at once with {status}; its log: {log}", self.version.name());
            }
            self.docker(&["version"]).code == 0
        });
    }

    /// `docker create`, or `docker run --detach`.
    fn make(&self, how: &[&str], run: &Run) -> Result<Container<'_>, Outcome> {
        self.load(&run.image);
        let name = self.containerd.new_id();
        let words = Docker::run_words(run);
        let mut args = [how, &["--interactive", "--name", &name]].concat();
        args.extend(words.iter().map(String::as_str));
        let outcome = self.docker(&args);
        if outcome.code != 0 {
            self.docker(&["rm", "--force", "--volumes", &name]);
            return Err(outcome);
        }
        let client = |args: &[&str]| {
            let mut command = self.docker_command(args);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let words: Vec<String> =
                command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
            (PathBuf::from(command.get_program()), words)
        };
        let (program, logs) = client(&["logs"]);
        let logs = Box::new(move |id: &str| {
            let mut command = Command::new(&program);
            command.args(&logs).arg(id);
            call(command, None)
        });
        let (program, attach) = client(&["attach", "--sig-proxy=false"]);
        let to = Box::new(move |id: &str| attach_to(&program, &attach, id));
        Ok(Container::new(self, outcome.out().trim(), Streams::Docker { attach: None, logs, to }))
    }

    fn run_words(run: &Run) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |new: &[&str]| words.extend(new.iter().map(|&word| word.to_owned()));
        add(&["--pull", "never", "--runtime", &run.runtime]);
        if run.image.platform != "linux/amd64" {
            add(&["--platform", &run.image.platform]);
        }
        for pair in &run.env {
            add(&["--env", pair]);
        }
        if let Some(cwd) = &run.cwd {
            add(&["--workdir", cwd]);
        }
        if run.read_only {
            add(&["--read-only"]);
        }
        if let Some(bytes) = run.memory {
            add(&["--memory", &bytes.to_string(), "--memory-swap", &bytes.to_string()]);
        }
        if let Some(cpus) = run.cpus {
            add(&["--cpus", &cpus.to_string()]);
        }
        for (host, inside, writable) in &run.binds {
            let mode = if *writable { "rw" } else { "ro" };
            add(&["--volume", &format!("{}:{inside}:{mode}", host.display())]);
        }
        for inside in &run.tmpfs {
            add(&["--tmpfs", inside]);
        }
        words.extend(run.extra.iter().cloned());
        words.push(run.image.reference.clone());
        words.extend(run.args.iter().cloned());
        words
    }
}

impl Daemon for Docker {
    fn name(&self) -> String {
        self.version.name().to_owned()
    }

    fn is_docker(&self) -> bool {
        true
    }

    fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    fn containerd_namespace(&self) -> &str {
        &self.namespace
    }

    fn load(&self, image: &Packed) {
        let once = {
            let mut loaded = self.loaded.lock().unwrap_or_else(|p| p.into_inner());
            Arc::clone(loaded.entry(image.reference.clone()).or_default())
        };
        once.get_or_init(|| {
            self.docker(&["load", "--input", &image.path.display().to_string()]).success();
        });
    }

    fn run(&self, run: &Run) -> Outcome {
        let interactive: &[&str] = if run.stdin.is_some() { &["--interactive"] } else { &[] };
        call(self.run_command(&[&["--rm"], interactive].concat(), run), run.stdin.as_deref())
    }

    fn try_start(&self, run: &Run) -> Result<Container<'_>, Outcome> {
        self.make(&["run", "--detach"], run)
    }

    fn pid(&self, id: &str) -> Option<i32> {
        self.inspect(id, "{{.State.Pid}}")?.parse().ok().filter(|&pid| pid != 0)
    }

    fn ended(&self, id: &str) -> bool {
        self.inspect(id, "{{.State.Status}}")
            .is_none_or(|status| status == "exited" || status == "dead")
    }

    fn kill(&self, id: &str, signal: &str) -> Outcome {
        self.docker(&["kill", "--signal", signal, id])
    }

    fn exec(&self, id: &str, words: &[&str], stdin: &[u8]) -> Outcome {
        call(self.docker_command(&[&["exec", "--interactive", id], words].concat()), Some(stdin))
    }

    fn exec_in_terminal(&self, id: &str, words: &[&str], typed: &Typed<'_>) -> Outcome {
        let command =
            self.docker_command(&[&["exec", "--interactive", "--tty", id], words].concat());
        in_terminal(&command, typed)
    }

    fn run_in_terminal(&self, run: &Run, typed: &Typed<'_>) -> Outcome {
        in_terminal(&self.run_command(&["--rm", "--interactive", "--tty"], run), typed)
    }

    fn freeze(&self, id: &str, frozen: bool) -> Outcome {
        self.docker(&[if frozen { "pause" } else { "unpause" }, id])
    }

    fn take_exit_code(&self, id: &str) -> i32 {
        let code =
            self.inspect(id, "{{.State.ExitCode}}").unwrap_or_else(|| panic!("no container {id}"));
        code.parse().unwrap_or_else(|_| panic!("no exit code: {code}"))
    }

    fn remove(&self, id: &str) -> Outcome {
        self.docker(&["rm", "--force", "--volumes", id])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        terminate(&mut self.process.lock().unwrap_or_else(|p| p.into_inner()));
    }
}

/// Writes the files of /etc that give a user its subordinate ids.
fn write_ids(etc: &Path, user: &str, first: u32) {
    let write = |file: &str, text: String| {
        fs::write(etc.join(file), text).expect("the scope's folder is writable");
    };
    fs::create_dir_all(etc).expect("the scope's folder is writable");
    for file in ["passwd", "group"] {
        let mut text = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with(&format!("{user}:"))) {
            let rest = if file == "passwd" { "64999::/:/bin/false" } else { "" };
            text += &format!("{user}:x:64999:{rest}\n");
        }
        write(file, text);
    }
    for file in ["subuid", "subgid"] {
        write(file, format!("{user}:{first}:65536\n"));
    }
}

fn attach_to(program: &Path, words: &[String], id: &str) -> Child {
    let mut command = Command::new(program);
    command.args(words).arg(id).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("`{}` cannot be run: {e}", line_of(&command)))
}

fn spawn(containerd: &Containerd) -> Child {
    let scope = containerd.scope();
    let mut command = in_network_namespace(Some(scope.name()), "dockerd", containerd.search_path());
    if containerd.has_own_etc() {
        let inner = command;
        command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", containerd.daemon_pid()));
        command.arg(inner.get_program()).args(inner.get_args());
        command.env("PATH", containerd.search_path());
    }
    command.arg("--config-file").arg(scope.root().join("daemon.json"));
    command.stdin(Stdio::null()).stdout(scope.log()).stderr(scope.log());
    command.spawn().unwrap_or_else(|e| panic!("`{}` cannot be run: {e}", line_of(&command)))
}
