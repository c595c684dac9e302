//! The base of all parts: the compared runtimes, a containerd, a cache, and a clock.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wherry_testing::{
    Containerd, ContainerdVersion, Packed, Usage, bin_dir, daemon_bin, wait_until,
};

use crate::options::Options;
use crate::results::{NOTHING, RUNC, Results};

/// The environment of the parts.
pub(crate) struct World {
    /// The options of the run.
    pub(crate) options: Options,
    /// The results so far.
    pub(crate) results: Results,
    /// A private containerd.
    pub(crate) containerd: Containerd,
    /// The cache of its shims.
    pub(crate) code: PathBuf,
    /// The times from the end of `start` to each Create for the shim that does nothing: lines of
    /// milliseconds.
    pub(crate) pauses: PathBuf,
    _folder: TempDir,
}

/// The deadline for the end of the shims of a finished round.
const SETTLE: Duration = Duration::from_secs(60);

/// The deadline for the kernel's removal of unused namespaces, cgroups and mounts.
const QUIET: Duration = Duration::from_millis(100);

impl World {
    /// Starts a containerd.
    pub(crate) fn new(options: Options) -> World {
        let folder = TempDir::new().expect("a temporary folder");
        let code = folder.path().join("code");
        let pauses = folder.path().join("pauses");
        let environment = [
            ("WHERRY_CACHE_DIR", &*code.to_string_lossy()),
            ("BENCH_PAUSES", &*pauses.to_string_lossy()),
        ];
        let containerd = Containerd::start_with(ContainerdVersion::V2, &environment);
        World { options, results: Results::default(), containerd, code, pauses, _folder: folder }
    }

    /// Removes all compiled code.
    pub(crate) fn empty_cache(&self) {
        match fs::remove_dir_all(&self.code) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                panic!("{} cannot be removed: {error}", self.code.display())
            }
            _ => {}
        }
    }

    /// The engines and runc, and on request the shim that does nothing, in the order of a round.
    pub(crate) fn runtimes(&self, nothing: bool) -> Vec<String> {
        let mut all = self.options.engines.clone();
        all.push(RUNC.to_owned());
        if nothing {
            all.push(NOTHING.to_owned());
        }
        all
    }

    /// Times `ctr run --rm` of an image, in milliseconds.
    pub(crate) fn ctr_run(&self, who: &str, image: &Packed, says: &str) -> f64 {
        self.settle();
        let id = self.containerd.new_id();
        let runtime = runtime(who);
        let command = self.containerd.ctr_command(&[
            "run",
            "--rm",
            "--runtime",
            &runtime,
            &image.reference,
            &id,
        ]);
        time(command, if who == NOTHING { "" } else { says })
    }

    /// Waits until the shims of the last round are gone: their work must not count for the next
    /// one.
    pub(crate) fn settle(&self) {
        settle(&self.containerd);
    }
}

/// Waits until no shim serves a containerd, and the kernel has removed the remains of the last
/// ones.
pub(crate) fn settle(containerd: &Containerd) {
    wait_until("the shims to end", SETTLE, || Usage::pids(containerd).is_empty());
    thread::sleep(QUIET);
}

/// The runtime's name as a client gives it.
pub(crate) fn runtime(who: &str) -> String {
    let version = if who == RUNC { 2 } else { 1 };
    format!("io.containerd.{who}.v{version}")
}

/// The name of its shim.
pub(crate) fn shim(who: &str) -> PathBuf {
    match who {
        RUNC => daemon_bin(ContainerdVersion::V2.name()).join("containerd-shim-runc-v2"),
        _ => bin_dir().join(format!("containerd-shim-{who}-v1")),
    }
}

/// Whether a runtime runs native programs only; the one that does nothing gets those too.
pub(crate) fn is_native(who: &str) -> bool {
    who == RUNC || who == NOTHING
}

/// Runs a client to its end, and returns its time in milliseconds.
///
/// # Panics
/// If it fails, or the container's output is not the expected one.
pub(crate) fn time(command: Command, says: &str) -> f64 {
    let start = Instant::now();
    let said = output(command);
    let took = milliseconds(start.elapsed());
    assert_eq!(said, says, "the container's output");
    took
}

/// Runs a client to its end, and returns the container's output.
///
/// # Panics
/// If it fails.
pub(crate) fn output(mut command: Command) -> String {
    command.stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {} and said {said:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
