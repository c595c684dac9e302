//! A private containerd, driven by its own `ctr`.

use crate::container::shim_address;
use crate::events::Events;
use crate::image::Packed;
use crate::io::{Outcome, call};
use crate::places;
use crate::process::{HOSTS, config, in_network_namespace, spawn, write_network};
use crate::scope::Scope;
use crate::wait::{DEADLINE, wait_until};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The versions of containerd under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerdVersion {
    /// 1.6, of Debian 12.
    V1_6,
    /// 1.7, of Debian 13.
    V1_7,
    /// 2.x, of Debian unstable.
    V2,
    /// 2.4, built from its Go module: with the bootstrap protocol.
    V2_4,
}

impl ContainerdVersion {
    /// The name in `test/setup/daemons.sh`, or in `go-daemons.sh` there.
    pub fn name(self) -> &'static str {
        match self {
            ContainerdVersion::V1_6 => "containerd-1.6",
            ContainerdVersion::V1_7 => "containerd-1.7",
            ContainerdVersion::V2 => "containerd-2",
            ContainerdVersion::V2_4 => "containerd-2.4",
        }
    }

    /// Whether it is a containerd 2, with version 3 of the Task API and of the configuration.
    pub fn is_2(self) -> bool {
        matches!(self, ContainerdVersion::V2 | ContainerdVersion::V2_4)
    }
}

/// A containerd with a private folder, sockets and containerd namespace. Dropping it, or the death
/// of the test process, ends it with everything that it runs.
pub struct Containerd {
    version: ContainerdVersion,
    scope: Scope,
    setup: Setup,
    path: String,
    process: Mutex<Child>,
    loaded: Mutex<HashMap<String, Arc<OnceLock<()>>>>,
    /// The sockets of the shims that were seen.
    sockets: Mutex<BTreeSet<PathBuf>>,
}

/// Optional parts of a containerd.
#[derive(Default)]
pub(crate) struct Setup {
    /// The network namespace to run in, where containers are connected to it.
    pub(crate) netns: Option<String>,
    /// Environment variables that the shims inherit.
    pub(crate) environment: Vec<(String, String)>,
    /// A folder of files that replace those of /etc for this containerd.
    pub(crate) etc: Option<PathBuf>,
    /// Serve CRI, with this image for the first container of a pod.
    pub(crate) sandbox_image: Option<String>,
    /// More runtime handlers of CRI.
    pub(crate) handlers: Vec<Handler>,
}

/// A runtime handler of CRI.
#[derive(Clone, Debug, Default)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// Its runtime. Empty: that of the engine under test.
    pub runtime: String,
    /// More keys of it: lines of TOML.
    pub keys: String,
    /// The runtime's options: lines of TOML.
    pub options: String,
}

impl Containerd {
    /// Starts one for a single test, which may kill it.
    pub fn start(version: ContainerdVersion) -> Containerd {
        Containerd::start_with(version, &[])
    }

    /// Like [`Containerd::start`], with variables in its environment that the shims inherit.
    pub fn start_with(version: ContainerdVersion, environment: &[(&str, &str)]) -> Containerd {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Containerd::start_alone(version, Setup { environment, ..Setup::default() })
    }

    /// Like [`Containerd::start`], with the CRI plugin, in a network namespace. The runtime handler
    /// has the engine's name; `sandbox_image` is the image of a pod's first container. There are
    /// these handlers besides.
    pub fn start_for_kubernetes(
        version: ContainerdVersion,
        sandbox_image: &Packed,
        handlers: &[Handler],
    ) -> Containerd {
        let scope = Scope::new(version.name());
        let netns = Some(scope.add_network_namespace());
        let sandbox_image = Some(sandbox_image.reference.clone());
        let handlers = handlers.to_vec();
        let setup = Setup { netns, sandbox_image, handlers, ..Setup::default() };
        Containerd::start_in(version, scope, &[version.name(), "runc"], setup)
    }

    fn start_alone(version: ContainerdVersion, setup: Setup) -> Containerd {
        let daemons = [version.name(), "runc"];
        Containerd::start_in(version, Scope::new(version.name()), &daemons, setup)
    }

    /// The instance that the tests of this process share.
    pub fn shared(version: ContainerdVersion) -> &'static Containerd {
        static SHARED: [OnceLock<Containerd>; 4] = [const { OnceLock::new() }; 4];
        let shared = SHARED[version as usize].get_or_init(|| Containerd::start(version));
        shared.scope.mark_used();
        shared
    }

    pub(crate) fn start_in(
        version: ContainerdVersion,
        scope: Scope,
        daemons: &[&str],
        setup: Setup,
    ) -> Containerd {
        scope.mark_used();
        let path = places::search_path(daemons);
        let text = config(version, scope.root(), &setup);
        fs::write(scope.root().join("containerd.toml"), text)
            .expect("the scope's folder is writable");
        if setup.sandbox_image.is_some() {
            write_network(scope.root()).expect("the scope's folder is writable");
        }
        let process = Mutex::new(spawn(&scope, &setup, &path));
        let containerd = Containerd {
            version,
            scope,
            setup,
            path,
            process,
            loaded: Mutex::default(),
            sockets: Mutex::default(),
        };
        containerd.wait_ready();
        containerd
    }

    /// Its version.
    pub fn version(&self) -> ContainerdVersion {
        self.version
    }

    /// The folder that contains all its files.
    pub fn root(&self) -> &Path {
        self.scope.root()
    }

    /// The address of its socket.
    pub fn address(&self) -> PathBuf {
        self.root().join("c.sock")
    }

    /// The address of its debug socket, which serves profiles over HTTP.
    pub fn debug_address(&self) -> PathBuf {
        self.root().join("debug.sock")
    }

    /// The containerd namespace that the tests use; cgroups have it in their path.
    pub fn namespace(&self) -> &str {
        self.scope.name()
    }

    /// The folder in which its CRI plug-in finds the `hosts.toml` of a registry.
    pub fn hosts_dir(&self) -> PathBuf {
        self.root().join(HOSTS)
    }

    /// The command of a program in its network namespace, which may be that of this process.
    pub fn in_network(&self, program: &Path) -> Command {
        let program = program.display().to_string();
        in_network_namespace(self.setup.netns.as_deref(), &program, &self.path)
    }

    /// The path of its log.
    pub fn log_path(&self) -> &Path {
        self.scope.log_path()
    }

    /// The folder of files that need not survive a reboot: in memory.
    pub fn state(&self) -> PathBuf {
        self.scope.state()
    }

    /// The folder of the bundles of a namespace.
    pub fn task_dir(&self, namespace: &str) -> PathBuf {
        self.state().join("io.containerd.runtime.v2.task").join(namespace)
    }

    /// The folder of the bundles of the pods that shims make, of a namespace.
    pub fn sandbox_dir(&self, namespace: &str) -> PathBuf {
        self.state().join("io.containerd.sandbox.controller.v1.shim").join(namespace)
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether it runs in a private mount namespace, with replaced files of /etc.
    pub(crate) fn has_own_etc(&self) -> bool {
        self.setup.etc.is_some()
    }

    pub(crate) fn search_path(&self) -> &str {
        &self.path
    }

    /// Its pid.
    pub fn daemon_pid(&self) -> i32 {
        i32::try_from(self.process.lock().unwrap_or_else(|p| p.into_inner()).id()).expect("a pid")
    }

    /// Kills it with SIGKILL; its containers continue.
    pub fn kill9(&self) {
        let mut process = self.process.lock().unwrap_or_else(|p| p.into_inner());
        process.kill().expect("our own child");
        process.wait().expect("our own child");
    }

    /// Restarts it after [`Containerd::kill9`], and waits until it answers.
    pub fn start_again(&self) {
        *self.process.lock().unwrap_or_else(|p| p.into_inner()) =
            spawn(&self.scope, &self.setup, &self.path);
        self.wait_ready();
    }

    /// A `ctr` call in the tests' namespace.
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        call(self.ctr_command(args), None)
    }

    /// A new id for a container.
    pub fn new_id(&self) -> String {
        // Unique among all daemons of this process: the kernel finds a keyring by this name.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The command of a `ctr` call, for a test that drives it itself.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        self.ctr_command_in(self.namespace(), args)
    }

    fn ctr_command_in(&self, namespace: &str, args: &[&str]) -> Command {
        self.scope.mark_used();
        let mut command = Command::new(places::daemon_bin(self.version.name()).join("ctr"));
        let address = self.address().display().to_string();
        command.args(["--address", &address, "--namespace", namespace]).args(args);
        // `ctr` 2.4 prints a warning about version 1 of cgroups to standard error.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "true");
        command
    }

    /// Imports the image into a containerd namespace.
    pub fn import(&self, image: &Packed, namespace: &str) {
        let path = image.path.display().to_string();
        let mut words = vec!["images", "import", "--platform", &image.platform];
        if self.version.is_2() {
            // The transfer service would unpack the layers of the host's platform only.
            words.push("--local");
        }
        words.push(&path);
        call(self.ctr_command_in(namespace, &words), None).success();
    }

    /// Collects the events that containerd publishes from now on, until the result is dropped.
    pub fn events(&self) -> Events {
        let path = self.root().join(format!("events-{}", self.new_id()));
        let file = fs::File::create(&path).expect("the scope's folder is writable");
        let mut command = self.ctr_command(&["events"]);
        let client = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("ctr runs");
        let events = Events { client, path };
        // `ctr events` does not report when it is subscribed: publish until one event arrives.
        let mut tick = 0;
        wait_until("the first event", DEADLINE, || {
            tick += 1;
            self.ctr(&["namespaces", "label", self.namespace(), &format!("tick={tick}")]);
            events.text().contains("/namespaces/update")
        });
        events
    }

    /// Is initialised by the load of the image of this name into the tests' namespace.
    pub(crate) fn load_once(&self, reference: &str) -> Arc<OnceLock<()>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|p| p.into_inner());
        Arc::clone(loaded.entry(reference.to_owned()).or_default())
    }

    /// Records the socket of the shim that serves this container, for
    /// [`Leftovers`](crate::Leftovers).
    pub fn note_shim(&self, namespace: &str, id: &str) {
        for bundles in [self.task_dir(namespace), self.sandbox_dir(namespace)] {
            if let Some((socket, _)) = shim_address(&bundles.join(id)) {
                self.note_socket(socket);
            }
        }
    }

    /// Records the socket of a shim, for [`Leftovers`](crate::Leftovers).
    pub(crate) fn note_socket(&self, path: PathBuf) {
        self.sockets.lock().unwrap_or_else(|p| p.into_inner()).insert(path);
    }

    /// The sockets of all shims that were recorded here.
    pub(crate) fn sockets(&self) -> BTreeSet<PathBuf> {
        self.sockets.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }

    fn wait_ready(&self) {
        wait_until(&format!("{} listens", self.version.name()), DEADLINE, || {
            let mut process = self.process.lock().unwrap_or_else(|p| p.into_inner());
            if let Ok(Some(status)) = process.try_wait() {
                panic!(
                    "{} ended at once with {status}; its log: {}",
                    self.version.name(),
                    self.log_path().display()
                );
            }
            UnixStream::connect(self.address()).is_ok()
        });
        // The socket listens before the plugins are ready.
        wait_until(&format!("{} answers", self.version.name()), DEADLINE, || {
            self.ctr(&["version"]).code == 0
        });
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The reaper would end it too, but it is our child, so it must be waited for here.
        let mut process = self.process.lock().unwrap_or_else(|p| p.into_inner());
        let _ = process.kill();
        let _ = process.wait();
    }
}
