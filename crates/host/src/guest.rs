//! The guest's process, from inside the container's namespaces to its end.
//!
//! libcontainer calls [`Executor`] in the container's first process, with the root filesystem
//! entered, the user set, capabilities dropped and seccomp on. Before Start the program is found
//! and loaded, so that whatever is wrong with it is an error of Create. After Start it runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor as Workload, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wherry_engine::{Code, Engine, Guest, Network, Preopen, Program, Start};
use wherry_image::{Entrypoint, EntrypointError, Kind, kind, strip_init};

use crate::exec::Confinement;
use crate::filter::{self, Allow};
use crate::validate::DESCRIPTORS_MIN;
use crate::{apparmor, console, own_executable, privileges, process_title, signals};
use wherry_bundle::hooks::Batch;
use wherry_protocol::{Channel, Failure, FailureKind, SetupMessage, SetupReply};
use wherry_sys::{logger, memory};

/// The exit status of a guest that trapped: what a native program that aborts has, 128 + SIGABRT.
pub(crate) const TRAPPED: i32 = 134;

/// What libcontainer runs in the container.
#[derive(Clone)]
pub(crate) struct Executor(Rc<Inner>);

struct Inner {
    engine: Rc<dyn Engine>,
    channel: Channel,
    confinement: Option<Confinement>,
    hooks: Option<Batch>,
    /// What the engine's own seccomp filter lets pass.
    allow: Allow,
    /// The largest module that this process reads itself, bytes.
    module_max: u64,
    stage: RefCell<Stage>,
}

/// How far the guest is.
enum Stage {
    New,
    /// The spec has been seen.
    Known(Wanted),
    /// Everything that can be found out before Start has been.
    Ready(Ready),
    Gone,
}

/// What the spec says of the program.
struct Wanted {
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    apparmor_profile: String,
}

impl Wanted {
    fn cwd(&self) -> &Path {
        Path::new(if self.cwd.is_empty() { "/" } else { &self.cwd })
    }
}

enum Ready {
    Wasm { program: Box<dyn Program>, name: String, args: Vec<String>, stray: Vec<i32> },
    Native { path: CString, args: Vec<CString>, env: Vec<CString> },
}

impl Executor {
    /// `confinement` is what libcontainer does not do for a process that joins a container;
    /// `hooks` are those of a container's first process, at its start.
    pub(crate) fn new(
        engine: Rc<dyn Engine>,
        channel: Channel,
        confinement: Option<Confinement>,
        hooks: Option<Batch>,
        allow: Allow,
        module_max: u64,
    ) -> Executor {
        let stage = RefCell::new(Stage::New);
        Executor(Rc::new(Inner { engine, channel, confinement, hooks, allow, module_max, stage }))
    }
}

impl Workload for Executor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // As early as can be: a stop must work from here on.
        signals::end_on_request();
        let process = spec.process().as_ref();
        let confined = match &self.0.confinement {
            Some(confinement) => confinement.apply(),
            None => privileges::drop_what_is_not_given(
                process.and_then(|process| process.capabilities().as_ref()),
            ),
        };
        confined
            .and_then(|()| privileges::drop_as_exec_would())
            .map_err(ExecutorValidationError::ArgValidationError)?;
        writable_null();
        process
            .map_or(Ok(()), console::resize)
            .map_err(ExecutorValidationError::ArgValidationError)?;
        let wanted = Wanted {
            args: process.and_then(|p| p.args().clone()).unwrap_or_default(),
            env: process.and_then(|p| p.env().clone()).unwrap_or_default(),
            cwd: process.map(|p| p.cwd().display().to_string()).unwrap_or_default(),
            apparmor_profile: process
                .and_then(|p| p.apparmor_profile().clone())
                .unwrap_or_default(),
        };
        self.0.stage.replace(Stage::Known(wanted));
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is the guest's, not this process's: an engine, or the C library, must
        // not find settings in it. Nothing of the daemon's is left either.
        clear_environment();
        let Stage::Known(mut wanted) = self.0.stage.replace(Stage::Gone) else {
            return Err(ExecutorSetEnvsError::Other(
                "the container's configuration is missing".into(),
            ));
        };
        // What libcontainer added: HOME, from the container's passwd.
        for (key, value) in envs {
            if !wanted.env.iter().any(|pair| pair.split_once('=').is_some_and(|(k, _)| k == key)) {
                wanted.env.push(format!("{key}={value}"));
            }
        }
        match self.0.prepare(&wanted) {
            Ok(ready) => {
                self.0.stage.replace(Stage::Ready(ready));
                Ok(())
            }
            Err(failure) => {
                let text = failure.message.clone();
                // If the daemon is gone there is nobody to tell.
                let _ = self.0.channel.send(&SetupMessage::Failed(failure), &[]);
                Err(ExecutorSetEnvsError::Other(text))
            }
        }
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        crate::serve::report_details_to(None);
        logger::stop();
        let pid = i32::try_from(std::process::id()).ok();
        if let Some(Err(error)) = self.0.hooks.as_ref().map(|hooks| hooks.run(pid, None)) {
            let failure = Failure::new(FailureKind::System, error.to_string());
            let _ = self.0.channel.send(&SetupMessage::Failed(failure), &[]);
            signals::exit_now(1)
        }
        match self.0.stage.replace(Stage::Gone) {
            Stage::Ready(Ready::Wasm { program, name, args, stray }) => {
                process_title::set(&args);
                memory::trim_heap();
                memory::trim_stack();
                // No program of a container leaves a zombie to a first process that never waits.
                signals::leave_no_zombies();
                let links = self.0.engine.link_buffer();
                if let Err(error) = filter::install(self.0.allow, true, links) {
                    let failure = Failure::new(FailureKind::System, error.to_string());
                    let status = failure.kind.exit_status();
                    let _ = self.0.channel.send(&SetupMessage::Failed(failure), &[]);
                    signals::exit_now(status)
                }
                // Says that the guest is about to run: see `launch::start`.
                close_all(&stray);
                run_to_end(program, &name)
            }
            Stage::Ready(Ready::Native { path, args, env }) => {
                signals::restore_defaults();
                // The channel closes with a successful exec, which says the same.
                let errno = match nix::unistd::execve(&path, &args, &env) {
                    Err(errno) => errno,
                    Ok(never) => match never {},
                };
                let failure = exec_failure(&path.to_string_lossy(), errno);
                let status = failure.kind.exit_status();
                let _ = self.0.channel.send(&SetupMessage::Failed(failure), &[]);
                signals::exit_now(status)
            }
            _ => Err(ExecutorError::Other("the guest was not prepared".into())),
        }
    }
}

/// Opens `/dev/null` anew for the outputs that go there: libcontainer opens the container's own for reading only.
fn writable_null() {
    let is_null = |fd: i32| {
        nix::sys::stat::fstat(crate::borrow(fd))
            .is_ok_and(|stat| stat.st_rdev == libc::makedev(1, 3))
    };
    if !is_null(1) && !is_null(2) {
        return;
    }
    // A container whose /dev/null cannot be written to has its reasons.
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    if is_null(1) {
        let _ = nix::unistd::dup2_stdout(&null);
    }
    if is_null(2) {
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Runs a guest and ends the process as the guest ended.
pub fn run_to_end(program: Box<dyn Program>, name: &str) -> ! {
    let _ = nix::sys::prctl::set_name(&CString::new(name).unwrap_or_default());
    // The process ends whatever the panic left behind.
    let status = match panic::catch_unwind(AssertUnwindSafe(|| program.run())) {
        Ok(Ok(code)) => i32::from(code.0),
        Ok(Err(trap)) => {
            let _ = io::stderr().write_all(format!("{trap}\n").as_bytes());
            TRAPPED
        }
        // The engine panicked, and the panic hook has written its message to standard error.
        Err(_) => TRAPPED,
    };
    signals::exit_now(status)
}

impl Inner {
    fn prepare(&self, wanted: &Wanted) -> Result<Ready, Failure> {
        let stray = open_descriptors();
        let mut args = strip_init(&wanted.args).unwrap_or(&wanted.args);
        let mut found = find(args, wanted)?;
        // An init process is for native programs: a guest's own process does what an init does, and no
        // init could execute a module.
        if found.kind == Kind::Native && args.len() != wanted.args.len() {
            args = &wanted.args;
            found = find(args, wanted)?;
        }
        let Found { entry, file, kind } = found;
        let shown = entry.path.display().to_string();
        match (kind, file) {
            (Kind::Module | Kind::Component | Kind::Text, Some(file)) => {
                let guest = self.guest(wanted, &entry, args);
                let program = self.load(&file, guest).map_err(|failure| Failure {
                    message: format!("{shown}: {}", failure.message),
                    ..failure
                })?;
                let name =
                    entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                // Last: the profile need not allow the engine to receive and map its compiled code, which is no file of the
                // container.
                apparmor::change_profile(&wanted.apparmor_profile)
                    .map_err(|text| Failure::new(FailureKind::System, text))?;
                Ok(Ready::Wasm { program, name, args: args.to_vec(), stray })
            }
            (Kind::Precompiled, _) => Err(Failure::new(
                FailureKind::NotExecutable,
                format!(
                    "exec {shown:?}: permission denied: this is a precompiled module, native code that \
                     came with the image and is never run; put the .wasm itself into the image"
                ),
            )),
            (Kind::Other, _) => Err(Failure::new(
                FailureKind::NotExecutable,
                format!(
                    "exec {shown:?}: permission denied: the file is neither WebAssembly (module, \
                     component or text) nor a native program"
                ),
            )),
            _ if entry.function.is_some() => Err(Failure::new(
                FailureKind::Invalid,
                format!("exec {shown:?}: a native program has no functions to call with #"),
            )),
            _ => native(&entry.path, wanted),
        }
    }

    fn guest(&self, wanted: &Wanted, entry: &Entrypoint, args: &[String]) -> Guest {
        Guest {
            function: entry.function.clone(),
            args: args.to_vec(),
            env: environment(&wanted.env, wanted.cwd()),
            cwd: wanted.cwd().to_owned(),
            preopens: vec![Preopen { host: "/".into(), guest: "/".into() }],
            network: Network::Namespace,
        }
    }

    /// Gets the module's compiled code from the daemon, and the engine to take it.
    fn load(&self, file: &File, guest: Guest) -> Result<Box<dyn Program>, Failure> {
        let system = |text: String| Failure::new(FailureKind::System, text);
        let code = match self.engine.compile_key() {
            None => {
                wherry_image::check_size(file, self.module_max)
                    .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
                Code::Wasm(wherry_image::read_all(file).map_err(|error| system(error.to_string()))?)
            }
            Some(key) => {
                let baseline = self.engine.baseline_key().map(|key| key.0);
                let start = Start {
                    function: guest.function.clone(),
                    plugin_modules: self.engine.plugin_modules(),
                };
                let start = start.to_args();
                self.channel
                    .send(
                        &SetupMessage::Compile { key: key.0, baseline, start },
                        &[file.as_raw_fd()],
                    )
                    .map_err(|error| system(format!("the shim does not listen: {error}")))?;
                match self.channel.receive::<SetupReply>() {
                    Ok(Some(packet)) => match (packet.message, packet.fds.into_iter().next()) {
                        (SetupReply::Compiled, Some(fd)) => Code::Compiled(File::from(fd)),
                        (SetupReply::Refused(text), _) => {
                            return Err(Failure::new(FailureKind::Invalid, text));
                        }
                        (SetupReply::Compiled | SetupReply::Proceed, _) => {
                            return Err(system("the shim sent no compiled code".into()));
                        }
                    },
                    Ok(None) => return Err(system("the shim is gone".into())),
                    Err(error) => return Err(system(format!("the shim's answer: {error}"))),
                }
            }
        };
        self.engine
            .load(code, guest)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))
    }
}

/// The guest's variables: those of the configuration, and PWD, the only way in which preview 1
/// can tell a guest its working directory.
fn environment(env: &[String], cwd: &Path) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if !pairs.iter().any(|(key, _)| key == "PWD") {
        pairs.push(("PWD".to_owned(), cwd.display().to_string()));
    }
    pairs
}

/// What the first of some arguments names.
struct Found {
    entry: Entrypoint,
    /// None: it may be run but not read.
    file: Option<File>,
    kind: Kind,
}

fn find(args: &[String], wanted: &Wanted) -> Result<Found, Failure> {
    let path = wanted.env.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let entry = Entrypoint::resolve(args, path, wanted.cwd(), crate::is_file).map_err(|error| {
        let kind = match error {
            EntrypointError::None => FailureKind::Invalid,
            _ => FailureKind::NotFound,
        };
        Failure::new(kind, error.to_string())
    })?;
    match probe(&entry.path) {
        Ok((file, kind)) => Ok(Found { entry, file: Some(file), kind }),
        // Only a native program may be run but not read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(Found { entry, file: None, kind: Kind::Native })
        }
        Err(error) => Err(Failure::new(
            FailureKind::NotExecutable,
            format!("exec {:?}: {error}", entry.path.display().to_string()),
        )),
    }
}

fn probe(path: &Path) -> io::Result<(File, Kind)> {
    // Without blocking: a named pipe has nobody at its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("permission denied: it is not a regular file"));
    }
    let mut head = [0; kind::PROBE];
    let length = file.read_at(&mut head, 0)?;
    Ok((file, Kind::of(head.get(..length).unwrap_or_default())))
}

fn native(path: &Path, wanted: &Wanted) -> Result<Ready, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| {
            Failure::new(FailureKind::Invalid, "an argument or variable holds a NUL byte")
        })
    };
    let shown = path.display().to_string();
    if own_executable::is_named_by(path) {
        return Err(Failure::new(
            FailureKind::NotExecutable,
            format!(
                "exec {shown:?}: permission denied: it is the engine host of this runtime, not a program of the container"
            ),
        ));
    }
    // Told before Start where that can be; the rest is told by exec itself.
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
        .map_err(|errno| exec_failure(&shown, errno))?;
    Ok(Ready::Native {
        path: text(path.as_os_str().as_bytes())?,
        args: wanted.args.iter().map(|arg| text(arg.as_bytes())).collect::<Result<_, _>>()?,
        env: wanted.env.iter().map(|pair| text(pair.as_bytes())).collect::<Result<_, _>>()?,
    })
}

fn exec_failure(path: &str, errno: Errno) -> Failure {
    let kind = match errno {
        // The file was there: it is the interpreter that is not.
        Errno::ENOENT => FailureKind::NotFound,
        _ => FailureKind::NotExecutable,
    };
    let cause = match errno {
        Errno::ENOENT => "no such file or directory (the program's interpreter is missing)",
        Errno::EACCES => "permission denied (the file is not executable for this user)",
        Errno::ENOEXEC => "exec format error (a program for another processor?)",
        other => other.desc(),
    };
    Failure::new(kind, format!("exec {path:?}: {}", cause.to_lowercase()))
}

/// The descriptors above 2 that are open now: libcontainer's and ours. The guest gets none.
fn open_descriptors() -> Vec<i32> {
    // By number, since a container need not have /proc; libcontainer opens far fewer than this.
    let mut all: Vec<PollFd> =
        (3..256).map(|fd| PollFd::new(crate::borrow(fd), PollFlags::empty())).collect();
    // What is not open is told at once. It takes no more of them than may be open.
    for some in all.chunks_mut(DESCRIPTORS_MIN as usize) {
        let _ = poll(some, PollTimeout::ZERO);
    }
    let open = |fd: &PollFd| fd.revents().is_none_or(|told| !told.contains(PollFlags::POLLNVAL));
    all.iter().filter(|fd| open(fd)).map(|fd| fd.as_fd().as_raw_fd()).collect()
}

#[allow(unsafe_code)]
fn close_all(fds: &[i32]) {
    for fd in fds {
        // SAFETY: whatever object owns the number is never used or dropped again: the process
        // runs the guest from here to its end, and ends with `_exit`.
        unsafe { libc::close(*fd) };
    }
}

#[allow(unsafe_code)]
fn clear_environment() {
    // SAFETY: this process has a single thread.
    unsafe { libc::clearenv() };
}
