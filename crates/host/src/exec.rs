//! Another process in a container that runs.
//!
//! libcontainer joins it to the container's namespaces and cgroup, but leaves out the user namespace
//! and the seccomp profile: [`Confinement`] adds them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::{SyscallType, create_syscall};
use libcontainer::{capabilities, seccomp};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};
use oci_spec::runtime::Process as ProcessSpec;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxSeccomp, Spec, User};
use wherry_engine::Engine;

use crate::console::Console;
use crate::create::{may_be_replaced, stream_owner, with_streams};
use crate::filter::Allow;
use crate::guest::Executor;
use crate::libcontainer_state::ContainerState;
use crate::seccomp_listener::Listener;
use crate::serve::Forked;
use crate::{cgroup, keyring, plugins, privileges, sentence, system, userns, validate};
use wherry_bundle::{Bundle, parse};
use wherry_protocol::message::Descriptors;
use wherry_protocol::{ExecRequest, Failure};
use wherry_sys::process::Process;

/// What libcontainer does not do for a process that joins a container. Until it is done the process
/// keeps the power to.
#[derive(Clone)]
pub(crate) struct Confinement {
    seccomp: Option<LinuxSeccomp>,
    /// Of the seccomp profile.
    listener: Option<Rc<Listener>>,
    /// What the process is to have in the end.
    capabilities: Option<LinuxCapabilities>,
    user: User,
    /// The container's user namespace, and who the user is outside of it.
    namespace: Option<(Rc<OwnedFd>, u32)>,
    terminal: bool,
}

impl Confinement {
    /// The confinement of `process`. `outside`: its user, outside of the container.
    fn of(
        spec: &Spec,
        process: &ProcessSpec,
        bundle: &Bundle,
        outside: u32,
        terminal: bool,
    ) -> Result<Confinement, Failure> {
        let linux = spec.linux().as_ref();
        let namespace = linux
            .and_then(userns::wanted)
            .map(|_| namespace_of(bundle).map(|fd| (Rc::new(fd), outside)))
            .transpose()?;
        let seccomp = linux.and_then(|linux| linux.seccomp().clone());
        let listener = seccomp.as_ref().map(|profile| Listener::connect(profile, bundle));
        Ok(Confinement {
            listener: listener.transpose().map_err(system)?.flatten().map(Rc::new),
            seccomp,
            capabilities: process.capabilities().clone(),
            user: process.user().clone(),
            namespace,
            terminal,
        })
    }

    /// To be called in the new process, as soon as its code runs there.
    pub(crate) fn apply(&self) -> Result<(), String> {
        let syscall = create_syscall();
        let uid = self.user.uid();
        if self.terminal {
            let owner = self.namespace.as_ref().map_or(uid, |(_, outside)| *outside);
            fchown(io::stdin(), Some(Uid::from_raw(owner)), None)
                .map_err(|errno| format!("cannot give the terminal to user {owner}: {errno}"))?;
        }
        if let Some((namespace, _)) = &self.namespace {
            setns(namespace, CloneFlags::CLONE_NEWUSER)
                .map_err(|errno| format!("cannot join the user namespace: {errno}"))?;
            become_user(&self.user)
                .map_err(|errno| format!("cannot become user {uid}: {errno}"))?;
            // The kernel has given every power over the namespace.
            capabilities::reset_effective(&*syscall)
                .map_err(|error| format!("cannot become user {uid}: {error}"))?;
        }
        if let Some(profile) = &self.seccomp {
            let descriptor = seccomp::initialize_seccomp(profile)
                .map_err(|error| format!("cannot set the seccomp profile: {error}"))?;
            if let (Some(descriptor), Some(listener)) = (descriptor, &self.listener) {
                listener.send(descriptor)?;
            }
        }
        if let Some(wanted) = &self.capabilities {
            capabilities::drop_privileges(wanted, &*syscall)
                .map_err(|error| format!("cannot drop capabilities: {error}"))?;
        }
        privileges::drop_what_is_not_given(self.capabilities.as_ref())
    }
}

/// Becomes a user of the user namespace, and keeps the power to set capabilities.
fn become_user(user: &User) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let groups: Vec<Gid> =
        user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
    prctl::set_keepcaps(true)?;
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)
}

pub(crate) fn exec(
    engine: &Rc<dyn Engine>,
    request: &ExecRequest,
    descriptors: Descriptors,
) -> Result<Forked, Failure> {
    let Descriptors { setup, setup_lock: _setup_lock, stdio } = descriptors;
    let invalid = |text: String| crate::invalid(format!("the process to execute: {text}"));
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec = bundle.spec().map_err(|error| crate::invalid(error.to_string()))?;
    let mut process: ProcessSpec =
        parse(request.process.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    validate::process(&process).map_err(invalid)?;
    plugins::load(&**engine, &request.options.plugins)?;
    process.set_terminal(Some(request.terminal));
    let outside = userns::outside(&spec, Some(process.user()));
    let io = (request.options.io_uid, request.options.io_gid);
    let owner = stream_owner(Some(process.user()), outside, io);
    cgroup::join_without_waiting(may_be_replaced(&spec, Some(&process)));
    let confinement = Confinement::of(&spec, &process, &bundle, outside.0, request.terminal)?;
    // libcontainer adds a process only to a running container; Start does not wait for its record.
    ContainerState::of(&bundle)
        .and_then(ContainerState::mark_running)
        .map_err(|error| system(error.to_string()))?;
    process.set_capabilities(Some(raised(process.capabilities().as_ref())));
    // libcontainer has no file of this name, whatever the id.
    let path = bundle.state().join(format!("exec-{}.json", request.exec_id));
    let write = || fs::write(&path, serde_json::to_vec(&process)?);
    write().map_err(|error| system(format!("cannot write {}: {error}", path.display())))?;
    let result = (|| {
        let options = &request.options;
        let allow = Allow::for_guests_of(&**engine, &options.plugins, options.no_engine_seccomp);
        let (engine, confinement) = (Rc::clone(engine), Some(confinement));
        let executor = Executor::new(engine, setup, confinement, None, allow, request.module_max);
        keyring::join(&request.id);
        let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_root_path(bundle.state_root())
            .map_err(|error| system(sentence(&error)))?
            .with_executor(executor);
        let (builder, console) = with_streams(builder, stdio, owner, &bundle)?;
        let pid = builder
            .as_tenant()
            .with_process(Some(&path))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|error| system(sentence(&error)))?;
        Ok(Forked { pid: pid.as_raw(), console: console.map(Console::receive).transpose()? })
    })();
    // Removed with the container at the latest.
    let _ = fs::remove_file(&path);
    result
}

/// The user namespace that a container's first process is in.
fn namespace_of(bundle: &Bundle) -> Result<OwnedFd, Failure> {
    let pid = Container::load(bundle.state()).map_err(|error| system(sentence(&error)))?.pid();
    let pid = pid.ok_or_else(|| system("the container has no first process".to_owned()))?;
    let namespace =
        Process::new(pid.as_raw()).inspect(|process| File::open(process.join("ns/user")));
    namespace.map(OwnedFd::from).map_err(|error| {
        system(format!("cannot open the user namespace of the container: {error}"))
    })
}

/// Joining a user namespace and setting a seccomp profile take the first, giving all up again the
/// second, and giving away a terminal the third.
fn raised(capabilities: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let more = [Capability::SysAdmin, Capability::Setpcap, Capability::Chown];
    let add = |set: Option<&Capabilities>| -> Option<Capabilities> {
        Some(set.into_iter().flatten().copied().chain(more).collect())
    };
    // The default is not empty, but all that matters of it is set below.
    let mut raised = capabilities.cloned().unwrap_or_default();
    raised.set_bounding(add(raised.bounding().as_ref()));
    raised.set_effective(add(raised.effective().as_ref()));
    raised.set_permitted(add(raised.permitted().as_ref()));
    raised
}
