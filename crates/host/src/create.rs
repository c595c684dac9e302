//! Setting a container up and forking its first process.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::unistd::{Gid, Uid, fchown};
use oci_spec::runtime::{LinuxMemory, Process, Spec, User};
use wherry_bundle::hooks::{Batch, Moment};
use wherry_bundle::{Bundle, Config};
use wherry_cgroup::Cgroup;
use wherry_engine::Engine;
use wherry_protocol::message::Descriptors;
use wherry_protocol::{Channel, CreateRequest, Failure, Packet, SetupMessage, SetupReply, Stdio};

use crate::console::{self, Console};
use crate::filter::Allow;
use crate::guest::Executor;
use crate::serve::Forked;
use crate::{
    cgroup, invalid, keyring, mount, plugins, sentence, spec_rewrite, system, userns, validate,
};

pub(crate) fn create(
    engine: &Rc<dyn Engine>,
    request: &CreateRequest,
    descriptors: Descriptors,
) -> Result<Forked, Failure> {
    let Descriptors { setup, setup_lock: _setup_lock, stdio } = descriptors;
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec = bundle.spec().map_err(|error| invalid(error.to_string()))?;
    validate::spec(&spec).map_err(|text| invalid(format!("config.json: {text}")))?;
    plugins::load(&**engine, &request.options.plugins)?;
    let state = bundle.state_root();
    fs::create_dir_all(&state)
        .map_err(|error| system(format!("cannot create {}: {error}", state.display())))?;
    // The daemon creates the cgroup while this process mounts.
    setup.send(&SetupMessage::Cgroup, &[]).map_err(|error| system(error.to_string()))?;
    cgroup::join_without_waiting(may_be_replaced(&spec, spec.process().as_ref()));
    mount::rootfs(&bundle.rootfs(), &request.rootfs, &bundle.layers()).map_err(system)?;
    create_directories(&bundle, &spec, &request.cwd)?;
    let config = Config::from(&spec);
    let rewritten = spec_rewrite::rewrite(&bundle, &spec, &config, request.systemd_cgroup, &setup)
        .map_err(system)?;
    let hooks = Batch::new(Moment::StartContainer, &bundle, &config);
    wait_for_cgroup(&setup)?;
    let allow = Allow::for_guests_of(
        &**engine,
        &request.options.plugins,
        request.options.no_engine_seccomp,
    );
    let executor =
        Executor::new(Rc::clone(engine), setup, None, Some(hooks), allow, request.module_max);
    keyring::join(&request.id);
    let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(bundle.state_root())
        .map_err(|error| system(sentence(&error)))?
        .with_executor(executor);
    let user = spec.process().as_ref().map(Process::user);
    let outside = userns::outside(&spec, user);
    let owner = stream_owner(user, outside, (request.options.io_uid, request.options.io_gid));
    let (builder, console) = with_streams(builder, stdio, owner, &bundle)?;
    let container = builder
        .as_init(&rewritten.path)
        .with_systemd(request.systemd_cgroup)
        .with_no_pivot(request.options.no_pivot_root)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| system(sentence(&error)))?;
    let pid = container.pid().ok_or_else(|| system("the container has no first process".into()))?;
    complete_cgroup(&spec, pid.as_raw(), request.systemd_cgroup)?;
    let console = console.map(Console::receive).transpose()?;
    if let Some(console) = &console {
        console::give(console, outside.0);
    }
    mount::restrict_cgroups(pid.as_raw(), spec.mounts().as_deref().unwrap_or_default())
        .map_err(system)?;
    Ok(Forked { pid: pid.as_raw(), console })
}

/// Creates `/dev` and the working directory in the root filesystem, as runc does: libcontainer needs
/// both. If that fails, libcontainer reports why.
fn create_directories(bundle: &Bundle, spec: &Spec, cwd: &Path) -> Result<(), Failure> {
    let Some(root) = spec.root() else { return Ok(()) };
    let root = bundle.path().join(root.path());
    if let Err(error) = fs::read_dir(&root) {
        let text = format!("cannot use the root filesystem {}: {error}", root.display());
        return Err(invalid(text));
    }
    let owner = userns::outside(spec, None);
    for directory in [Path::new("/dev"), cwd] {
        if let Err(error) = mount::directory(&root, directory, owner) {
            log::warn!("cannot create {} in the container: {error}", directory.display());
        }
    }
    Ok(())
}

fn wait_for_cgroup(setup: &Channel) -> Result<(), Failure> {
    match setup.receive::<SetupReply>() {
        Ok(Some(Packet { message: SetupReply::Proceed, .. })) => Ok(()),
        Ok(Some(Packet { message: SetupReply::Refused(text), .. })) => Err(system(text)),
        _ => Err(system("the daemon did not create the cgroup".to_owned())),
    }
}

/// Sets what neither systemd nor libcontainer has set in the cgroup of process `pid`.
fn complete_cgroup(spec: &Spec, pid: i32, systemd: bool) -> Result<(), Failure> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(resources) = resources.filter(|_| systemd) {
        cgroup::complete(pid, resources).map_err(system)?;
    }
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    if memory.and_then(LinuxMemory::disable_oom_killer).unwrap_or(false)
        && let Some(cgroup) = Cgroup::of(pid)
    {
        cgroup.disable_oom_killer().map_err(|error| system(error.to_string()))?;
    }
    Ok(())
}

/// Whether libcontainer no longer needs the pid of its intermediate process when that joins the
/// cgroup: it has no mappings or time offsets to write for it, and no CPU affinity to set.
pub(crate) fn may_be_replaced(spec: &Spec, process: Option<&Process>) -> bool {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let affinity = process.and_then(|process| process.exec_cpu_affinity().as_ref());
    linux.and_then(userns::wanted).is_none() && offsets.is_none() && affinity.is_none()
}

/// Sets a process's streams: those of the request, or a terminal.
pub(crate) fn with_streams(
    builder: ContainerBuilder,
    stdio: Option<Stdio>,
    owner: (u32, u32),
    bundle: &Bundle,
) -> Result<(ContainerBuilder, Option<Console>), Failure> {
    let Some(Stdio { stdin, stdout, stderr }) = stdio else {
        let console = Console::new(bundle.path())?;
        return Ok((builder.with_console_socket(Some(console.path())), Some(console)));
    };
    for stream in [&stdin, &stdout, &stderr] {
        own_stream(stream, owner);
    }
    Ok((builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr), None))
}

/// The owner of a process's streams: its user, so that the guest can open `/dev/stdout` again; or, if
/// that is root, the user that the client names.
pub(crate) fn stream_owner(user: Option<&User>, outside: (u32, u32), io: (u32, u32)) -> (u32, u32) {
    let pick = |inside, outside, io| if inside == 0 && io != 0 { io } else { outside };
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    (pick(uid, outside.0, io.0), pick(gid, outside.1, io.1))
}

fn own_stream(stream: &OwnedFd, (uid, gid): (u32, u32)) {
    let fifo = nix::sys::stat::fstat(stream)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if fifo && (uid, gid) != (0, 0) {
        // A filesystem without owners refuses; the stream itself works all the same.
        if let Err(errno) = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            log::warn!(
                "cannot change the owner of descriptor {} to {uid}: {errno}",
                stream.as_raw_fd()
            );
        }
    }
}
