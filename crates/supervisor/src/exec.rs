//! Adding a process to a container.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wherry_bundle::{Bundle, SetupLock};
use wherry_cgroup::CgroupName;
use wherry_protocol::{ExecRequest, Failure, FailureKind, HostRequest, Stdio};
use wherry_sys::process::Process;

use crate::cancel::Cancel;
use crate::code::{CodeError, Order};
use crate::conversation::{Forked, SetupService};
use crate::create::ContainerConfig;
use crate::{Engine, Supervisor};

/// The process that a client adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Its id.
    pub exec_id: String,
    /// The process, as `process` in a configuration: JSON.
    pub process: String,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Whether its standard streams are a terminal.
    pub terminal: bool,
}

impl Supervisor {
    /// Forks a process into a container, and lets it run. Blocks. `init` is the container's first
    /// process; `stdio` as in [`Supervisor::create`].
    ///
    /// # Errors
    /// With a sentence for the user.
    pub fn exec(
        &self,
        container: &ContainerConfig,
        init: &Process,
        config: &ExecConfig,
        stdio: Option<Stdio>,
        cancel: &Cancel,
    ) -> Result<Forked, Failure> {
        let bundle = Bundle::new(&container.bundle, &container.id);
        let request = HostRequest::Exec(ExecRequest {
            id: container.id.clone(),
            exec_id: config.exec_id.clone(),
            bundle: container.bundle.clone(),
            process: config.process.clone(),
            cwd: config.cwd.clone(),
            terminal: config.terminal,
            options: container.options.clone(),
            module_max: self.bounds.module,
        });
        let forked = self.engines.attempt(&bundle, None, stdio, &mut |engine, stdio| {
            let lock = SetupLock::shared(&bundle)
                .map_err(|error| Failure::new(FailureKind::System, error.to_string()))?;
            let mut setup =
                ExecSetup { supervisor: self, engine, container, bundle: &bundle, cancel };
            let host = self.take_host(engine, &container.id, false)?;
            host.fork(&request, lock, stdio, &self.reaper, &mut setup)
        });
        let ended = || {
            let text = format!("container {} ended before the process could start", container.id);
            Failure::new(FailureKind::System, text)
        };
        match forked {
            // The host finds the container's namespaces by the pid of its first process, which may
            // name another process once the first one was reaped.
            Ok(forked) if init.has_ended() => {
                // Fails if the process has ended with the container.
                let _ = forked.process.signal(libc::SIGKILL.unsigned_abs());
                Err(ended())
            }
            // The end of the container may have interrupted any step.
            Err(failure) if failure.kind == FailureKind::System && init.has_ended() => Err(ended()),
            result => result,
        }
    }
}

/// Answers the messages of an added process.
struct ExecSetup<'a> {
    supervisor: &'a Supervisor,
    engine: &'a Engine,
    container: &'a ContainerConfig,
    bundle: &'a Bundle,
    cancel: &'a Cancel,
}

impl SetupService for ExecSetup<'_> {
    fn compile(
        &mut self,
        module: &File,
        key: &str,
        baseline: Option<&str>,
        start: &[String],
    ) -> Result<File, CodeError> {
        // Parsed here, because a native program needs no code.
        let spec = self.bundle.config()?;
        let systemd = self.container.options.systemd_cgroup;
        let cgroup = CgroupName::parse(spec.cgroups_path(), &self.container.id, systemd)?;
        let order = Order {
            supervisor: self.supervisor,
            engine: self.engine,
            id: &self.container.id,
            rootfs: &[],
            cgroup: &cgroup,
            memory: spec.memory_limit(),
            cancel: self.cancel,
        };
        order.code(module, key, baseline, start)
    }

    fn run_hooks(&mut self, _pid: i32) -> Result<(), Failure> {
        // None are due for an added process: the conversation refuses the message.
        Ok(())
    }

    fn create_cgroup(&mut self) -> Result<(), Failure> {
        // It exists: the conversation refuses the message.
        Ok(())
    }
}
