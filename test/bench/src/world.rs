//! What all parts stand on: the runtimes that are compared, a containerd, an empty cache, a clock.

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

/// Where the parts work.
pub(crate) struct World {
    /// What to do.
    pub(crate) options: Options,
    /// What came out so far.
    pub(crate) results: Results,
    /// A containerd of our own.
    pub(crate) containerd: Containerd,
    /// Where its shims keep compiled code.
    pub(crate) code: PathBuf,
    /// How long after the end of `start` it has sent each Create to the shim that does nothing: lines of milliseconds.
    pub(crate) pauses: PathBuf,
    _folder: TempDir,
}

/// How long the shims of a finished round may take to go.
const SETTLE: Duration = Duration::from_secs(60);

/// How long the kernel may take for namespaces, cgroups and mounts that nobody has any more.
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

    /// Forgets all compiled code.
    pub(crate) fn empty_cache(&self) {
        match fs::remove_dir_all(&self.code) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                panic!("{} cannot be removed: {error}", self.code.display())
            }
            _ => {}
        }
    }

    /// The engines and runc, and the shim that does nothing if it is asked for, in the order of a round.
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

    /// Waits until the shims of the last round are gone: what they still do is not the next one's.
    pub(crate) fn settle(&self) {
        settle(&self.containerd);
    }
}

/// Waits until no shim serves a containerd, and the kernel has undone what the last ones have left.
pub(crate) fn settle(containerd: &Containerd) {
    wait_until("the shims to end", SETTLE, || Usage::pids(containerd).is_empty());
    thread::sleep(QUIET);
}

/// The runtime's name as a client gives it.
pub(crate) fn runtime(who: &str) -> String {
    let version = if who == RUNC { 2 } else { 1 };
    format!("io.containerd.{who}.v{version}")
}

/// Its shim.
pub(crate) fn shim(who: &str) -> PathBuf {
    match who {
        RUNC => daemon_bin(ContainerdVersion::V2.name()).join("containerd-shim-runc-v2"),
        _ => bin_dir().join(format!("containerd-shim-{who}-v1")),
    }
}

/// Whether a runtime runs native programs alone; the one that does nothing is given those, too.
pub(crate) fn is_native(who: &str) -> bool {
    who == RUNC || who == NOTHING
}

/// Runs a client to its end, and returns how long it took in milliseconds.
///
/// # Panics
/// When it fails, or the container says something else than it should.
pub(crate) fn time(mut command: Command, says: &str) -> f64 {
    command.stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let took = milliseconds(start.elapsed());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said == says,
        "{command:?} ended with {} and said {said:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    took
}

/// A time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
