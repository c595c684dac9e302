//! Another process in a container that runs.
//!
//! libcontainer joins it to the container's namespaces and cgroup, but leaves out the seccomp
//! profile, which must be set while the process still has the power to: [`Confinement`] adds it.

use std::fs;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::{SyscallType, create_syscall};
use libcontainer::{capabilities, seccomp};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxSeccomp, Process};
use wherry_engine::Engine;

use super::guest::Executor;
use super::{Descriptors, Forked, sentence, streams_of, system};
use crate::bundle::Bundle;
use crate::protocol::{Channel, ExecRequest, Failure, FailureKind};

/// What libcontainer does not do for a process that joins a container.
#[derive(Clone)]
pub(super) struct Confinement {
    seccomp: LinuxSeccomp,
    /// What the process is to have, after the profile is set.
    capabilities: Option<LinuxCapabilities>,
}

impl Confinement {
    /// To be called in the new process, as soon as its code runs there.
    pub(super) fn apply(&self) -> Result<(), String> {
        seccomp::initialize_seccomp(&self.seccomp)
            .map_err(|error| format!("cannot set the seccomp profile: {error}"))?;
        let none = LinuxCapabilities::default();
        let wanted = self.capabilities.as_ref().unwrap_or(&none);
        capabilities::drop_privileges(wanted, &*create_syscall())
            .map_err(|error| format!("cannot drop capabilities: {error}"))
    }
}

pub(super) fn exec(
    engine: &Rc<dyn Engine>,
    request: &ExecRequest,
    fds: Vec<OwnedFd>,
) -> Result<Forked, Failure> {
    let Descriptors { channel, streams } = Descriptors::take(fds, request.terminal)?;
    let invalid = |text: String| Failure::new(FailureKind::Invalid, text);
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec = bundle.spec().map_err(|error| invalid(error.to_string()))?;
    let mut process: Process = serde_json::from_str(&request.process)
        .map_err(|error| invalid(format!("the process to execute: {error}")))?;
    process.set_terminal(Some(request.terminal));
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let confinement = profile
        .map(|seccomp| Confinement { seccomp, capabilities: process.capabilities().clone() });
    if confinement.is_some() {
        process.set_capabilities(Some(raised(process.capabilities().as_ref())));
    }
    // Beside libcontainer's files, none of which is called so whatever the id.
    let path = bundle.state().join(format!("exec-{}.json", request.exec_id));
    let write = || fs::write(&path, serde_json::to_vec(&process)?);
    write().map_err(|error| system(format!("cannot write {}: {error}", path.display())))?;
    let result = (|| {
        let executor = Executor::new(Rc::clone(engine), Channel::from_fd(channel), confinement);
        let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_root_path(bundle.state_root())
            .map_err(|error| system(sentence(&error)))?
            .with_executor(executor);
        let (builder, console) = streams_of(
            builder,
            streams,
            (request.io_uid, request.io_gid),
            Some(process.user()),
            &bundle,
        )?;
        let pid = builder
            .as_tenant()
            .with_process(Some(&path))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|error| system(sentence(&error)))?;
        Ok(Forked { pid: pid.as_raw(), console: console.map(super::Console::receive).transpose()? })
    })();
    let _ = fs::remove_file(&path);
    result
}

/// Setting a seccomp profile takes the one capability, giving both up again the other.
fn raised(capabilities: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let more = [Capability::SysAdmin, Capability::Setpcap];
    let add = |set: Option<&Capabilities>| -> Option<Capabilities> {
        Some(set.into_iter().flatten().copied().chain(more).collect())
    };
    let mut raised = capabilities.cloned().unwrap_or_default();
    raised.set_bounding(add(raised.bounding().as_ref()));
    raised.set_effective(add(raised.effective().as_ref()));
    raised.set_permitted(add(raised.permitted().as_ref()));
    raised
}
