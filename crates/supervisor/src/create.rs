//! Creating a container, and starting it.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wherry_bundle::hooks::{Batch, Moment};
use wherry_bundle::{Bundle, BundleError, Config, SetupLock};
use wherry_cgroup::{Cgroup, CgroupName, Meter, PathError};
use wherry_protocol::{
    Channel, CreateRequest, Failure, FailureKind, HostRequest, Mount, RuntimeOptions, Stdio,
};
use wherry_sys::handover::{Descriptor, Incoming, Outgoing, ResumeError};
use wherry_sys::process::Process;

use crate::cancel::Cancel;
use crate::cleanup::Remains;
use crate::code::{CodeError, Order};
use crate::conversation::{Forked, SetupService};
use crate::pod::members;
use crate::{Engine, Supervisor, cleanup, launch};

/// The container that a client requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The mounts of its root filesystem; empty if it is mounted already.
    pub rootfs: Vec<Mount>,
    /// Whether its standard streams are a terminal.
    pub terminal: bool,
    /// The bundle of the pod, if the daemon created the pod.
    pub pod: Option<Bundle>,
    /// The runtime's options.
    pub options: RuntimeOptions,
}

/// A container whose first process waits for Start.
#[derive(Debug)]
pub struct CreatedContainer {
    /// The first process.
    pub process: Process,
    /// The state that Start needs.
    pub start: Start,
    /// The daemon's end of the terminal, if the container has one.
    pub console: Option<std::os::fd::OwnedFd>,
    /// The bundle.
    pub bundle: Bundle,
    /// The state that cleanup needs.
    pub remains: Remains,
    /// The statistics of its cgroup. None if the process ended before they could be read.
    pub meter: Option<Meter>,
    /// Its mount namespace. None if the process ended before it could be opened.
    pub mount_namespace: Option<File>,
}

/// The state that Start of a created container needs.
#[derive(Debug)]
pub struct Start {
    bundle: Bundle,
    setup: Channel,
    poststart: Batch,
    pid: i32,
}

/// [`Start`] in the document of a handover.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedStart {
    bundle: Bundle,
    setup: Descriptor,
    poststart: Batch,
    pid: i32,
}

impl Start {
    /// The state, for the next version of this executable. The container's process runs the version
    /// that created it: it reports a failure of Start as that version does.
    pub fn save(&self, out: &mut Outgoing) -> SavedStart {
        let Start { bundle, setup, poststart, pid } = self;
        SavedStart {
            bundle: bundle.clone(),
            setup: out.add(setup),
            poststart: poststart.clone(),
            pid: *pid,
        }
    }

    /// The state of [`Start::save`].
    ///
    /// # Errors
    /// If its descriptor did not come along.
    pub fn restore(saved: SavedStart, from: &mut Incoming) -> Result<Start, ResumeError> {
        let SavedStart { bundle, setup, poststart, pid } = saved;
        Ok(Start { bundle, setup: Channel::from_fd(from.take(setup)?), poststart, pid })
    }
}

/// Why a bundle cannot be used for a new container.
#[derive(Debug, thiserror::Error)]
enum InvalidBundle {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("config.json: {0}")]
    Path(#[from] PathError),
    #[error("{} is the bundle of another container", .0.display())]
    Used(PathBuf),
    #[error("config.json: linux.cgroupsPath: there are processes in {} already", .0.display())]
    CgroupInUse(PathBuf),
}

impl Supervisor {
    /// Creates a container, or leaves nothing behind, also if it is cancelled. Blocks. `stdio`: the
    /// standard streams, unless the container has a terminal.
    ///
    /// # Errors
    /// With a sentence for the user.
    pub fn create(
        &self,
        config: &ContainerConfig,
        stdio: Option<Stdio>,
        cancel: &Cancel,
    ) -> Result<CreatedContainer, Failure> {
        let bundle = Bundle::new(&config.bundle, &config.id);
        let (spec, cgroup) = validate(&bundle, &config.options)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        if let Some(pod) = &config.pod {
            members::add(pod, &bundle)?;
        }
        if cgroup.systemd {
            // Repeated here for a pod's next container, and after a pause between `start` and
            // Create.
            wherry_cgroup::start_grace_period();
        }
        let remains = Remains::new(&bundle, &spec);
        let mut again = false;
        let forked = self.engines.attempt(&bundle, Some(&spec), stdio, &mut |engine, stdio| {
            if std::mem::replace(&mut again, true) {
                // The last engine does not run the module.
                self.clean(&bundle, &remains);
                if cancel.is_cancelled() {
                    return Err(cancelled(&config.id));
                }
            }
            let setup = CreateSetup {
                supervisor: self,
                engine,
                config,
                bundle: &bundle,
                spec: &spec,
                cgroup: &cgroup,
                cancel,
            };
            self.fork_first(setup, stdio)
        });
        // A cancelled Create is undone as a failed one.
        let result = if cancel.commit() { forked } else { Err(cancelled(&config.id)) };
        match result {
            Ok(Forked { process, setup, console }) => {
                let poststart = Batch::new(Moment::Poststart, &bundle, &spec);
                let pid = process.pid();
                Ok(CreatedContainer {
                    meter: Cgroup::of_process(&process)
                        .map(|found| Meter::new(found, !cgroup.systemd)),
                    mount_namespace: process
                        .inspect(|directory| File::open(directory.join("ns/mnt")))
                        .ok(),
                    process,
                    start: Start { bundle: bundle.clone(), setup, poststart, pid },
                    console,
                    bundle,
                    remains,
                })
            }
            Err(failure) => {
                self.remove(config, &remains);
                Err(failure)
            }
        }
    }

    fn fork_first(
        &self,
        mut setup: CreateSetup<'_>,
        stdio: Option<Stdio>,
    ) -> Result<Forked, Failure> {
        let CreateSetup { engine, config, bundle, spec, cgroup, .. } = setup;
        let request = HostRequest::Create(CreateRequest {
            id: config.id.clone(),
            bundle: config.bundle.clone(),
            rootfs: config.rootfs.clone(),
            cwd: spec.cwd(),
            terminal: config.terminal,
            systemd_cgroup: cgroup.systemd,
            pod_files: config.pod.as_ref().map(Bundle::pod_files),
            options: config.options.clone(),
            module_max: self.bounds.module,
        });
        let lock = SetupLock::shared(bundle)
            .map_err(|error| Failure::new(FailureKind::System, error.to_string()))?;
        let host = self.take_host(engine, &config.id, true)?;
        engine.spare.expect_network(spec.has_new_network());
        host.fork(&request, lock, stdio, &self.reaper, &mut setup)
    }

    /// Starts a created container: returns when the guest runs. Blocks.
    ///
    /// # Errors
    /// If it cannot be executed, with the reason that the process reported.
    pub fn start(&self, start: &Start) -> Result<(), Failure> {
        let Start { bundle, setup, poststart, pid } = start;
        launch::start(bundle, setup, poststart, *pid, &self.reaper)
    }

    /// Removes everything of a container but its bundle. Logs what could not be removed.
    pub fn remove(&self, config: &ContainerConfig, remains: &Remains) {
        self.clean(&Bundle::new(&config.bundle, &config.id), remains);
        if let Some(pod) = &config.pod {
            members::remove(pod, &config.id);
        }
    }

    fn clean(&self, bundle: &Bundle, remains: &Remains) {
        for error in cleanup::container(bundle, Some(remains), Some(&self.reaper)) {
            log::error!("{}: {error}", bundle.id());
        }
    }
}

fn cancelled(id: &str) -> Failure {
    let text = format!("the start of container {id} was cancelled by a Kill or Delete");
    Failure::new(FailureKind::System, text)
}

/// Parses what the daemon needs of the configuration. The engine host validates the rest.
fn validate(
    bundle: &Bundle,
    options: &RuntimeOptions,
) -> Result<(Config, CgroupName), InvalidBundle> {
    let spec = bundle.config()?;
    let cgroup = CgroupName::parse(spec.cgroups_path(), bundle.id(), options.systemd_cgroup)?;
    if bundle.is_used() {
        return Err(InvalidBundle::Used(bundle.path().to_owned()));
    }
    // Every process in the cgroup is killed when the container ends: it must not be shared.
    if wherry_cgroup::is_used(&cgroup) {
        return Err(InvalidBundle::CgroupInUse(cgroup.path));
    }
    Ok((spec, cgroup))
}

/// Answers the messages of a first process.
#[derive(Clone, Copy)]
struct CreateSetup<'a> {
    supervisor: &'a Supervisor,
    engine: &'a Engine,
    config: &'a ContainerConfig,
    bundle: &'a Bundle,
    spec: &'a Config,
    cgroup: &'a CgroupName,
    cancel: &'a Cancel,
}

impl SetupService for CreateSetup<'_> {
    fn compile(
        &mut self,
        module: &File,
        key: &str,
        baseline: Option<&str>,
        start: &[String],
    ) -> Result<File, CodeError> {
        let order = Order {
            supervisor: self.supervisor,
            engine: self.engine,
            id: &self.config.id,
            rootfs: &self.config.rootfs,
            cgroup: self.cgroup,
            memory: self.spec.memory_limit(),
            cancel: self.cancel,
        };
        order.code(module, key, baseline, start)
    }

    fn run_hooks(&mut self, pid: i32) -> Result<(), Failure> {
        [Moment::Prestart, Moment::CreateRuntime].into_iter().try_for_each(|moment| {
            Batch::new(moment, self.bundle, self.spec)
                .run(Some(pid), Some(&self.supervisor.reaper))
                .map_err(|error| Failure::new(FailureKind::System, error.to_string()))
        })
    }

    fn create_cgroup(&mut self) -> Result<(), Failure> {
        wherry_cgroup::create(self.cgroup, self.spec.resources())
            .map_err(|error| Failure::new(FailureKind::System, error.to_string()))
    }
}
