//! Forking another process into a running container.
//!
//! libcontainer joins it to the container's namespaces and cgroup, except for the user namespace,
//! and without the seccomp profile: [`Confinement`] adds both.

use std::fs;
use std::io;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Process as ProcessSpec;
use wherry_bundle::{Bundle, parse};
use wherry_engine::Engine;
use wherry_protocol::message::Descriptors;
use wherry_protocol::{ExecRequest, Stdio};
use wherry_sys::logger;

use crate::confinement::{self, Confinement};
use crate::console::Console;
use crate::create::{http, may_be_replaced, stream_owner, with_streams};
use crate::error::HostError;
use crate::filter::Allow;
use crate::guest::Executor;
use crate::libcontainer_state::ContainerState;
use crate::serve::Forked;
use crate::{cgroup, keyring, plugins, userns, validate};

pub(crate) fn exec(
    engine: &Rc<dyn Engine>,
    request: &ExecRequest,
    descriptors: Descriptors,
) -> Result<Forked, HostError> {
    let Descriptors { setup, setup_lock: _setup_lock, log, stdio } = descriptors;
    logger::log_to_descriptor(log);
    let options = &request.options;
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec = bundle.spec()?;
    let mut process: ProcessSpec =
        parse(request.process.as_bytes()).map_err(HostError::ParseProcess)?;
    validate::process(&process).map_err(HostError::Process)?;
    plugins::load(&**engine, &options.plugins)?;
    process.set_terminal(Some(request.terminal));
    let outside = userns::outside(&spec, Some(process.user()));
    let owner = stream_owner(Some(process.user()), outside, (options.io_uid, options.io_gid));
    cgroup::join_without_waiting(may_be_replaced(&spec, Some(&process)));
    let confinement = Confinement::of(&spec, &process, &bundle, outside.0, request.terminal)?;
    // libcontainer adds a process only to a container that its state calls running, and Start does
    // not wait for that record.
    ContainerState::of(&bundle)?.mark_running()?;
    process.set_capabilities(Some(confinement::raised(process.capabilities().as_ref())));
    let allow = Allow::for_guests_of(&**engine, &options.plugins, options.no_engine_seccomp);
    let (engine, max) = (Rc::clone(engine), request.module_max);
    let executor = Executor::new(engine, setup, Some(confinement), None, allow, max, http(&spec)?);
    fork(request, &bundle, &process, executor, stdio, owner)
}

/// Forks the process through libcontainer, which reads it from a file.
fn fork(
    request: &ExecRequest,
    bundle: &Bundle,
    process: &ProcessSpec,
    executor: Executor,
    stdio: Option<Stdio>,
    owner: (u32, u32),
) -> Result<Forked, HostError> {
    // libcontainer has no file of this name for any id.
    let path = bundle.state().join(format!("exec-{}.json", request.exec_id));
    let bytes = serde_json::to_vec(process).map_err(io::Error::from);
    bytes
        .and_then(|bytes| fs::write(&path, bytes))
        .map_err(|error| HostError::path("write", &path, error))?;
    let build = || {
        keyring::join(&request.id);
        let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_root_path(bundle.state_root())
            .map_err(HostError::libcontainer)?
            .with_executor(executor);
        let (builder, console) = with_streams(builder, stdio, owner, bundle)?;
        let pid = builder
            .as_tenant()
            .with_process(Some(&path))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(HostError::libcontainer)?;
        Ok(Forked { pid: pid.as_raw(), console: console.map(Console::receive).transpose()? })
    };
    let result = build();
    // If this fails, the file is removed with the container.
    let _ = fs::remove_file(&path);
    result
}
