//! Setting up a container and forking its first process.

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
use wherry_cgroup::{Cgroup, CgroupName};
use wherry_engine::{Engine, Http};
use wherry_protocol::message::Descriptors;
use wherry_protocol::{Channel, CreateRequest, SetupMessage, SetupReply, Stdio};
use wherry_sys::logger;

use crate::console::{self, Console};
use crate::error::HostError;
use crate::filter::Allow;
use crate::guest::Executor;
use crate::namespaces::SpareNamespaces;
use crate::serve::Forked;
use crate::spec_rewrite::Parts;
use crate::{cgroup, keyring, mount, mount_namespace, plugins, spec_rewrite, userns, validate};

pub(crate) fn create(
    engine: &Rc<dyn Engine>,
    request: &CreateRequest,
    descriptors: Descriptors,
    namespaces: Option<SpareNamespaces>,
) -> Result<Forked, HostError> {
    let Descriptors { setup, setup_lock: _setup_lock, log, stdio } = descriptors;
    logger::log_to_descriptor(log);
    let bundle = Bundle::new(&request.bundle, &request.id);
    let spec = bundle.spec()?;
    validate::spec(&spec).map_err(HostError::Config)?;
    let http = http(&spec)?;
    plugins::load(&**engine, &request.options.plugins)?;
    let state = bundle.state_root();
    fs::create_dir_all(&state).map_err(|error| HostError::path("create", &state, error))?;
    // The daemon creates the cgroup while this process mounts.
    setup.send(&SetupMessage::Cgroup, &[]).map_err(HostError::Channel)?;
    cgroup::join_without_waiting(may_be_replaced(&spec, spec.process().as_ref()));
    mount::rootfs(&bundle.rootfs(), &request.rootfs, &bundle.layers())?;
    create_directories(&bundle, &spec, &request.cwd)?;
    let config = Config::from(&spec);
    let name = CgroupName::parse(config.cgroups_path(), &request.id, request.systemd_cgroup)?;
    let pod_files = request.pod_files.as_deref();
    let parts = Parts { config: &config, cgroup: &name, channel: &setup, pod_files, namespaces };
    let rewritten = spec_rewrite::rewrite(&bundle, &spec, parts)?;
    let hooks = Batch::new(Moment::StartContainer, &bundle, &config);
    wait_for_cgroup(&setup)?;
    let allow = Allow::for_guests_of(
        &**engine,
        &request.options.plugins,
        request.options.no_engine_seccomp,
    );
    let executor =
        Executor::new(Rc::clone(engine), setup, None, Some(hooks), allow, request.module_max, http);
    keyring::join(&request.id);
    let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(bundle.state_root())
        .map_err(HostError::libcontainer)?
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
        .map_err(HostError::libcontainer)?;
    let pid = container.pid().ok_or_else(|| HostError::NoFirstProcess(request.id.clone()))?;
    complete_cgroup(&spec, pid.as_raw(), request.systemd_cgroup)?;
    let console = console.map(Console::receive).transpose()?;
    if let Some(console) = &console {
        console::change_owner(console, outside.0);
    }
    mount_namespace::complete(pid.as_raw(), &spec)?;
    Ok(Forked { pid: pid.as_raw(), console })
}

/// The annotation of containerd's CRI plug-in with the name of a container in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// The options of a server, from the annotations of its container.
pub(crate) fn http(spec: &Spec) -> Result<Http, HostError> {
    let annotations = spec.annotations().as_ref();
    let container = annotations.and_then(|all| all.get(CONTAINER_NAME)).map(String::as_str);
    let pairs = annotations.into_iter().flatten().map(|(key, value)| (&**key, &**value));
    Http::parse(pairs, container).map_err(HostError::Http)
}

/// Creates `/dev` and the working directory in the root filesystem, as runc does: libcontainer
/// needs both. If that fails, libcontainer reports why.
fn create_directories(bundle: &Bundle, spec: &Spec, cwd: &Path) -> Result<(), HostError> {
    let Some(root) = spec.root() else { return Ok(()) };
    let path = bundle.path().join(root.path());
    if let Err(source) = fs::read_dir(&path) {
        return Err(HostError::RootFilesystem { path, source });
    }
    let owner = userns::outside(spec, None);
    for directory in [Path::new("/dev"), cwd] {
        if let Err(error) = mount::create_directory(&path, directory, owner) {
            log::warn!("cannot create {} in the container: {error}", directory.display());
        }
    }
    Ok(())
}

fn wait_for_cgroup(setup: &Channel) -> Result<(), HostError> {
    match setup.receive::<SetupReply>().map_err(HostError::Channel)?.map(|packet| packet.message) {
        Some(SetupReply::Proceed) => Ok(()),
        Some(SetupReply::Refused(text)) => Err(HostError::CgroupRefused(text)),
        Some(SetupReply::Compiled) | None => Err(HostError::NoCgroup),
    }
}

/// Sets the values in the cgroup of process `pid` that neither systemd nor libcontainer has set.
fn complete_cgroup(spec: &Spec, pid: i32, systemd: bool) -> Result<(), HostError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(resources) = resources.filter(|_| systemd) {
        cgroup::complete(pid, resources)?;
    }
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    if memory.and_then(LinuxMemory::disable_oom_killer).unwrap_or(false)
        && let Some(cgroup) = Cgroup::of(pid)
    {
        cgroup.disable_oom_killer()?;
    }
    Ok(())
}

/// Whether libcontainer no longer needs the pid of its intermediate process when that joins the
/// cgroup: it has no mappings or time offsets to write for it, and no CPU affinity to set.
pub(crate) fn may_be_replaced(spec: &Spec, process: Option<&Process>) -> bool {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let affinity = process.and_then(|process| process.exec_cpu_affinity().as_ref());
    linux.and_then(userns::configured).is_none() && offsets.is_none() && affinity.is_none()
}

/// Sets a process's streams: those of the request, or a terminal.
pub(crate) fn with_streams(
    builder: ContainerBuilder,
    stdio: Option<Stdio>,
    owner: (u32, u32),
    bundle: &Bundle,
) -> Result<(ContainerBuilder, Option<Console>), HostError> {
    let Some(Stdio { stdin, stdout, stderr }) = stdio else {
        let console = Console::new(bundle.path())?;
        return Ok((builder.with_console_socket(Some(console.path())), Some(console)));
    };
    for stream in [&stdin, &stdout, &stderr] {
        own_stream(stream, owner);
    }
    Ok((builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr), None))
}

/// The owner of a process's streams: its user, so that the guest can open `/dev/stdout`; or, if
/// that is root, the user of the runtime's options.
pub(crate) fn stream_owner(user: Option<&User>, outside: (u32, u32), io: (u32, u32)) -> (u32, u32) {
    let pick = |inside, outside, io| if inside == 0 && io != 0 { io } else { outside };
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    (pick(uid, outside.0, io.0), pick(gid, outside.1, io.1))
}

fn own_stream(stream: &OwnedFd, (uid, gid): (u32, u32)) {
    let fifo = nix::sys::stat::fstat(stream)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if fifo && (uid, gid) != (0, 0) {
        // A filesystem without owners refuses. The stream works, and only /dev/stdout cannot be
        // opened.
        if let Err(errno) = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            log::warn!(
                "cannot change the owner of descriptor {} to {uid}: {errno}",
                stream.as_raw_fd()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Waits for the cgroup with a daemon that sends `reply` and ends.
    fn wait(reply: Option<&SetupReply>) -> Result<(), String> {
        let (channel, daemon) = Channel::pair().unwrap();
        if let Some(reply) = reply {
            daemon.send(reply, &[]).unwrap();
        }
        drop(daemon);
        wait_for_cgroup(&channel).map_err(|error| error.to_string())
    }

    #[test]
    fn a_process_is_forked_only_when_the_daemon_has_created_the_cgroup() {
        assert_eq!(wait(Some(&SetupReply::Proceed)), Ok(()));
        let refused = SetupReply::Refused("cannot set pids.max".to_owned());
        assert_eq!(wait(Some(&refused)).unwrap_err(), "cannot set pids.max");
        let none = "the shim ended before it created the cgroup";
        assert_eq!(wait(Some(&SetupReply::Compiled)).unwrap_err(), none);
        assert_eq!(wait(None).unwrap_err(), none);
    }

    #[test]
    fn streams_belong_to_the_user_and_to_that_of_the_options_if_the_user_is_root() {
        let user = |uid, gid| -> User {
            serde_json::from_value(json!({ "uid": uid, "gid": gid })).unwrap()
        };
        assert_eq!(stream_owner(Some(&user(5, 6)), (5, 6), (7, 8)), (5, 6));
        assert_eq!(stream_owner(Some(&user(0, 6)), (0, 6), (7, 8)), (7, 6));
        assert_eq!(stream_owner(Some(&user(0, 0)), (100_000, 100_000), (0, 0)), (100_000, 100_000));
        assert_eq!(stream_owner(None, (0, 0), (7, 0)), (7, 0));
    }

    #[test]
    fn a_process_whose_pid_libcontainer_still_needs_is_not_replaced() {
        let spec = |linux: serde_json::Value| -> Spec {
            let mut config = serde_json::to_value(Spec::default()).unwrap();
            for (field, value) in linux.as_object().unwrap() {
                config["linux"][field] = value.clone();
            }
            serde_json::from_value(config).unwrap()
        };
        assert!(may_be_replaced(&Spec::default(), None));
        assert!(!may_be_replaced(&spec(json!({"namespaces": [{"type": "user"}]})), None));
        let offsets = json!({"timeOffsets": {"boottime": {"secs": 1, "nanosecs": 0}}});
        assert!(!may_be_replaced(&spec(offsets), None));
        let mut process = Spec::default().process().clone().unwrap();
        process
            .set_exec_cpu_affinity(Some(serde_json::from_value(json!({"initial": "0"})).unwrap()));
        assert!(!may_be_replaced(&Spec::default(), Some(&process)));
    }
}
