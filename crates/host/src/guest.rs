//! The guest's process, from the container's namespaces to its end.
//!
//! libcontainer calls [`Executor`] in the new process, with the root filesystem entered, the user
//! set, capabilities dropped and the seccomp profile loaded. Before Start the process loads its
//! program ([`crate::program`]), so that every fault of the program is an error of Create. After
//! Start it runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor as Workload, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wherry_bundle::hooks::Batch;
use wherry_engine::{Engine, Http, Program, StartError};
use wherry_protocol::{Channel, Failure, FailureKind, SetupMessage};
use wherry_sys::{logger, memory, title};

use crate::confinement::Confinement;
use crate::filter::{self, Allow};
use crate::program::{Loaded, Loader, ProcessFields, ProgramError};
use crate::validate::DESCRIPTORS_MIN;
use crate::{console, privileges, signals};

/// The exit status of a guest that trapped: 128 + SIGABRT, that of a native program that aborts.
pub(crate) const TRAPPED: i32 = 134;

/// The code that libcontainer runs in the container.
#[derive(Clone)]
pub(crate) struct Executor(Rc<Inner>);

struct Inner {
    engine: Rc<dyn Engine>,
    channel: Channel,
    confinement: Option<Confinement>,
    hooks: Option<Batch>,
    /// The system calls that the engine's own seccomp filter allows.
    allow: Allow,
    /// The largest module that this process reads itself, bytes.
    module_max: u64,
    http: Http,
    stage: RefCell<Stage>,
}

/// The phase of the setup of the process.
enum Stage {
    New,
    /// The configuration was read.
    Configured(ProcessFields),
    /// The program is loaded. With the descriptors above 2, which the guest must not get.
    Loaded(Loaded, Vec<i32>),
    /// The program runs, or its setup failed.
    Done,
}

impl Executor {
    /// `confinement` is for a process that joins a container; `hooks` are those that a container's
    /// first process runs at its start.
    pub(crate) fn new(
        engine: Rc<dyn Engine>,
        channel: Channel,
        confinement: Option<Confinement>,
        hooks: Option<Batch>,
        allow: Allow,
        module_max: u64,
        http: Http,
    ) -> Executor {
        let stage = RefCell::new(Stage::New);
        let inner = Inner { engine, channel, confinement, hooks, allow, module_max, http, stage };
        Executor(Rc::new(inner))
    }
}

impl Workload for Executor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |error: &dyn std::error::Error| {
            ExecutorValidationError::ArgValidationError(error.to_string())
        };
        // First: a stop must end the process from here on.
        signals::handle_termination();
        let process = spec.process().as_ref();
        match &self.0.confinement {
            Some(confinement) => confinement.apply().map_err(|error| failed(&error))?,
            None => {
                let configured = process.and_then(|process| process.capabilities().as_ref());
                privileges::clear_unset_capabilities(configured).map_err(|error| failed(&error))?;
            }
        }
        privileges::drop_as_exec_would().map_err(|error| failed(&error))?;
        reopen_null();
        if let Some(process) = process {
            console::resize(process).map_err(|error| {
                let text = format!("cannot set the size of the terminal: {error}");
                ExecutorValidationError::ArgValidationError(text)
            })?;
        }
        let fields = ProcessFields {
            args: process.and_then(|p| p.args().clone()).unwrap_or_default(),
            env: process.and_then(|p| p.env().clone()).unwrap_or_default(),
            cwd: process.map(|p| p.cwd().display().to_string()).unwrap_or_default(),
            apparmor_profile: process
                .and_then(|p| p.apparmor_profile().clone())
                .unwrap_or_default(),
        };
        self.0.stage.replace(Stage::Configured(fields));
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The guest's environment is passed to the engine. This process has none: neither an engine
        // nor the C library may read settings from it, and nothing of the daemon's may stay.
        clear_environment();
        let Stage::Configured(mut process) = self.0.stage.replace(Stage::Done) else {
            let text = "the container's configuration was not read";
            return Err(ExecutorSetEnvsError::Other(text.into()));
        };
        process.env = with_home(process.env, envs.get("HOME").map(String::as_str));
        let stray = open_descriptors();
        let loader = Loader {
            engine: &*self.0.engine,
            channel: &self.0.channel,
            module_max: self.0.module_max,
            http: &self.0.http,
        };
        match loader.load(&process) {
            Ok(loaded) => {
                self.0.stage.replace(Stage::Loaded(loaded, stray));
                Ok(())
            }
            Err(error) => {
                let failure = Failure::from(error);
                let text = failure.message.clone();
                self.0.report(failure);
                Err(ExecutorSetEnvsError::Other(text))
            }
        }
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        crate::serve::report_details_to(None);
        logger::stop();
        let pid = Some(nix::unistd::getpid().as_raw());
        if let Some(Err(error)) = self.0.hooks.as_ref().map(|hooks| hooks.run(pid, None)) {
            self.0.report(Failure::new(FailureKind::System, error.to_string()));
            signals::exit_now(1)
        }
        match self.0.stage.replace(Stage::Done) {
            Stage::Loaded(Loaded::Wasm { mut program, name, args }, stray) => {
                title::set(&args);
                memory::trim_heap();
                memory::trim_stack();
                signals::reap_automatically();
                let links = self.0.engine.link_buffer();
                if let Err(error) = filter::install(self.0.allow, true, links) {
                    self.0.fail(Failure::new(FailureKind::System, error.to_string()))
                }
                // Before the guest opens descriptors: some of these are closed already, and their
                // numbers would be used again.
                let setup = self.0.channel.as_raw_fd();
                close_all(stray.into_iter().filter(|fd| *fd != setup));
                if let Err(error) = start(&mut *program) {
                    self.0.fail(Failure::new(FailureKind::Invalid, error.to_string()))
                }
                // Reports to the daemon that the guest runs.
                close_all([setup]);
                run_to_end(program, &name)
            }
            Stage::Loaded(Loaded::Native { path, args, env }, _) => {
                signals::restore_defaults();
                // A successful exec closes the channel, which reports the same.
                let errno = match nix::unistd::execve(&path, &args, &env) {
                    Err(errno) => errno,
                    Ok(never) => match never {},
                };
                let path = PathBuf::from(path.to_string_lossy().into_owned());
                self.0.fail(ProgramError::Exec { path, errno }.into())
            }
            _ => Err(ExecutorError::Other("the program was not loaded".into())),
        }
    }
}

impl Inner {
    /// Reports a failure to the daemon.
    fn report(&self, failure: Failure) {
        // A daemon that is gone has no user to report to.
        let _ = self.channel.send(&SetupMessage::Failed(failure), &[]);
    }

    /// Reports a failure, and ends this process with its exit status.
    fn fail(&self, failure: Failure) -> ! {
        let status = failure.kind.exit_status();
        self.report(failure);
        signals::exit_now(status.into())
    }
}

/// Opens `/dev/null` for writing where it is standard output or error: libcontainer opens the
/// container's own for reading only.
fn reopen_null() {
    let is_null = |fd: i32| {
        nix::sys::stat::fstat(crate::borrow(fd))
            .is_ok_and(|stat| stat.st_rdev == libc::makedev(1, 3))
    };
    if !is_null(1) && !is_null(2) {
        return;
    }
    // The image or the configuration may not let the user write to it.
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    // dup2 cannot fail with two open descriptors.
    if is_null(1) {
        let _ = nix::unistd::dup2_stdout(&null);
    }
    if is_null(2) {
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Starts a guest before it runs.
///
/// # Errors
/// As for [`Program::start`].
pub fn start(program: &mut dyn Program) -> Result<(), StartError> {
    program.start()?;
    if let Some(descriptor) = program.termination() {
        signals::forward_termination(descriptor);
    }
    Ok(())
}

/// Runs a guest, and ends this process with the guest's exit status.
pub fn run_to_end(program: Box<dyn Program>, name: &str) -> ! {
    // Only `ps` shows the name, so a failure has no effect on the guest.
    if let Ok(name) = CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    // Unwind safe: the process ends, so the state that the panic left is not used.
    let status = match panic::catch_unwind(AssertUnwindSafe(|| program.run())) {
        Ok(Ok(code)) => i32::from(code.0),
        Ok(Err(trap)) => {
            // The standard error of a guest may be closed.
            let _ = io::stderr().write_all(format!("{trap}\n").as_bytes());
            TRAPPED
        }
        // The engine panicked, and the panic hook has written its message to standard error.
        Err(_) => TRAPPED,
    };
    signals::exit_now(status)
}

/// Adds HOME to a process's environment where it is missing or empty, as runc does: `found`, which
/// libcontainer reads from the container's passwd, or the root for a user that is not there.
fn with_home(mut env: Vec<String>, found: Option<&str>) -> Vec<String> {
    let own = env.iter().rev().find_map(|pair| pair.strip_prefix("HOME="));
    if own.is_some_and(|home| !home.is_empty()) {
        return env;
    }
    // libcontainer may have taken an empty HOME from the process's environment: ignore it.
    let home = found.filter(|home| own.is_none() || !home.is_empty()).unwrap_or("/").to_owned();
    env.retain(|pair| !pair.starts_with("HOME="));
    env.push(format!("HOME={home}"));
    env
}

/// The open descriptors above 2: libcontainer's and this crate's.
fn open_descriptors() -> Vec<i32> {
    // By number, because a container need not have /proc; libcontainer opens far fewer than 256.
    let mut all: Vec<PollFd> =
        (3..256).map(|fd| PollFd::new(crate::borrow(fd), PollFlags::empty())).collect();
    // poll(2) takes no more descriptors than may be open, and reports those that are not open at
    // once.
    for chunk in all.chunks_mut(DESCRIPTORS_MIN as usize) {
        // After an error all count as open: closing one that is not is harmless.
        let _ = poll(chunk, PollTimeout::ZERO);
    }
    let is_open =
        |fd: &PollFd| fd.revents().is_none_or(|events| !events.contains(PollFlags::POLLNVAL));
    all.iter().filter(|fd| is_open(fd)).map(|fd| fd.as_fd().as_raw_fd()).collect()
}

#[allow(unsafe_code)]
fn close_all(fds: impl IntoIterator<Item = i32>) {
    for fd in fds {
        // SAFETY: the object that owns the number is never used or dropped again: the process runs
        // the guest from here to its end, and ends with `_exit`.
        unsafe { libc::close(fd) };
    }
}

#[allow(unsafe_code)]
fn clear_environment() {
    // SAFETY: this process has a single thread.
    unsafe { libc::clearenv() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_that_a_guest_must_not_have_is_found() {
        let (one, other) = Channel::pair().unwrap();
        let all = open_descriptors();
        assert!(all.contains(&one.as_raw_fd()) && all.contains(&other.as_raw_fd()), "{all:?}");
        assert!(all.iter().all(|fd| *fd > 2), "{all:?}");
        // A number above all that this process may have open.
        assert!(!all.contains(&255), "{all:?}");
    }

    #[test]
    fn home_is_the_configured_one_or_that_of_passwd_or_the_root() {
        for (given, found, expected) in [
            (None, Some("/home/a"), "HOME=/home/a"),
            (None, Some(""), "HOME="),
            (None, None, "HOME=/"),
            (Some("HOME="), Some("/home/a"), "HOME=/home/a"),
            (Some("HOME="), Some(""), "HOME=/"),
            (Some("HOME=/given"), Some("/home/a"), "HOME=/given"),
        ] {
            let env = given.map(str::to_owned).into_iter().collect();
            assert_eq!(with_home(env, found), [expected], "{given:?} {found:?}");
        }
    }
}
