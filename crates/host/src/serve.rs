//! The loop of the engine host: one request, one process, one reply.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;

use log::LevelFilter;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::dup2_stdin;
use wherry_engine::{Engine, LoadError};
use wherry_protocol::message::Descriptors;
use wherry_protocol::{Channel, HostReply, HostRequest, SetupMessage};
use wherry_sys::daemon::OOM_SCORE_ADJ;
use wherry_sys::{logger, title};

use crate::error::HostError;
use crate::namespaces::SpareNamespaces;
use crate::{adopt, create, exec, nss, own_executable, privileges, tracing_bridge};

/// Takes the channel, which a daemon passes to its host as standard input, and moves it to a number
/// that neither a guest nor a library uses.
pub(crate) fn take_channel() -> nix::Result<Channel> {
    let number = fcntl(io::stdin().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    let channel = Channel::from_fd(adopt(number));
    // Standard error is /dev/null.
    dup2_stdin(io::stderr())?;
    Ok(channel)
}

/// A process that was forked, and the daemon's end of its terminal.
pub(crate) struct Forked {
    pub(crate) pid: i32,
    pub(crate) console: Option<OwnedFd>,
}

/// Prepares this process for requests: everything that is equal for all containers.
pub(crate) fn prepare() {
    logger::start(LevelFilter::Info);
    logger::set_error_sink(send_detail);
    tracing_bridge::install();
    title::find();
    own_executable::record();
    nss::use_files_and_dns();
    privileges::leave_groups();
}

/// Serves the daemon until it closes the channel. `oom_score_adj` is the score of a guest whose
/// configuration sets none: this process has inherited the daemon's, which is not for guests.
/// `namespaces` are for the first container. Without an engine every request fails with the reason.
#[must_use]
pub(crate) fn serve(
    engine: &Result<Rc<dyn Engine>, LoadError>,
    channel: &Channel,
    oom_score_adj: Option<&str>,
    mut namespaces: Option<SpareNamespaces>,
) -> ExitCode {
    loop {
        let packet = match channel.receive::<HostRequest>() {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                yield_processor();
                return ExitCode::SUCCESS;
            }
            // The daemon has a newer version, or is broken.
            Err(_) => return ExitCode::FAILURE,
        };
        // Before each request: libcontainer has set it to the last container's value.
        if let Some(score) = oom_score_adj {
            // Lowering it again needs CAP_SYS_RESOURCE; then the guest keeps the higher score.
            let _ = fs::write(OOM_SCORE_ADJ, score);
        }
        let handled = handle(engine, &packet.message, packet.fds, namespaces.take());
        let (reply, console) = match handled {
            Ok(Forked { pid, console }) => (HostReply::Forked { pid }, console),
            Err(error) => (HostReply::Failed(error.into()), None),
        };
        let fds: Vec<i32> = console.iter().map(AsRawFd::as_raw_fd).collect();
        if channel.send(&reply, &fds).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

fn handle(
    engine: &Result<Rc<dyn Engine>, LoadError>,
    request: &HostRequest,
    fds: Vec<OwnedFd>,
    namespaces: Option<SpareNamespaces>,
) -> Result<Forked, HostError> {
    let engine = engine.as_ref().map_err(|error| HostError::Engine(error.to_string()))?;
    let descriptors = Descriptors::receive(fds, request.terminal())?;
    let details = descriptors.setup.try_clone().map_err(HostError::Channel)?;
    report_details_to(Some(details));
    let result = match request {
        HostRequest::Create(request) => create::create(engine, request, descriptors, namespaces),
        HostRequest::Exec(request) => exec::exec(engine, request, descriptors),
    };
    report_details_to(None);
    result
}

thread_local! {
    /// The channel on which the errors of libraries are reported, in this process and in those that
    /// it forks: the error that libcontainer returns in the end has lost the cause.
    static DETAILS: RefCell<Option<Channel>> = const { RefCell::new(None) };
}

/// Reports the errors of libraries on `channel`; None: stops reporting.
pub(crate) fn report_details_to(channel: Option<Channel>) {
    DETAILS.with(|details| details.replace(channel));
}

fn send_detail(text: &str) {
    DETAILS.with(|details| {
        if let Ok(details) = details.try_borrow()
            && let Some(channel) = &*details
        {
            // A daemon that is gone has no user to report to.
            let _ = channel.send(&SetupMessage::Detail(text.to_owned()), &[]);
        }
    });
}

/// Drops to SCHED_IDLE before the exit: tearing this process down takes some 0.6 ms of kernel time,
/// which would often delay the daemon, which has just received its reply.
#[allow(unsafe_code)]
fn yield_processor() {
    let idle = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the one structure.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle) };
}

#[cfg(test)]
mod tests {
    use super::*;

    use wherry_protocol::{CreateRequest, RuntimeOptions};

    fn request(terminal: bool) -> HostRequest {
        HostRequest::Create(CreateRequest {
            id: "x".into(),
            bundle: "/no/such/bundle".into(),
            rootfs: Vec::new(),
            cwd: "/".into(),
            terminal,
            systemd_cgroup: false,
            pod_files: None,
            options: RuntimeOptions::default(),
            module_max: 0,
        })
    }

    fn refused(engine: Result<Rc<dyn Engine>, LoadError>, fds: usize, terminal: bool) -> String {
        let fds = (0..fds).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        handle(&engine, &request(terminal), fds, None).err().unwrap().to_string()
    }

    #[test]
    fn without_an_engine_every_request_fails_with_the_reason() {
        let missing = LoadError::Engine("cannot load libengine.so".to_owned());
        let expected = missing.to_string();
        assert_eq!(refused(Err(missing), 6, false), expected);
    }

    #[test]
    fn a_request_with_other_descriptors_than_it_takes_is_refused() {
        struct Never;
        impl Engine for Never {
            fn name(&self) -> &'static str {
                "never"
            }

            fn version(&self) -> wherry_engine::Version {
                unreachable!("the request is refused before")
            }

            fn compile_key(&self) -> Option<wherry_engine::CompileKey> {
                None
            }

            fn load(
                &self,
                _: wherry_engine::Code,
                _: wherry_engine::Guest,
            ) -> Result<Box<dyn wherry_engine::Program>, LoadError> {
                unreachable!("the request is refused before")
            }
        }
        for (count, terminal) in
            [(0, false), (3, false), (5, false), (2, true), (4, true), (6, true)]
        {
            let text = refused(Ok(Rc::new(Never)), count, terminal);
            assert_eq!(text, format!("a request came with {count} descriptors"));
        }
        // With the right ones the bundle is read.
        for (count, terminal) in [(6, false), (3, true)] {
            let text = refused(Ok(Rc::new(Never)), count, terminal);
            assert!(text.starts_with("cannot read /no/such/bundle/config.json: "), "{text}");
        }
    }
}
