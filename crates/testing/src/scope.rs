//! The scope of one daemon: its folder, name and logs, and the helper process that ends everything
//! in it.

use crate::io::call;
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// A private folder, and every process that is started from it.
///
/// A helper process waits for the end of this value, which comes with [`Drop`] or with the death of
/// the test process: statics are not dropped, and a test run may be interrupted. The helper then
/// kills the processes of the folder, unmounts, and removes network namespace, cgroups and folder.
pub struct Scope {
    root: PathBuf,
    name: String,
    log: PathBuf,
    reaper: Child,
}

impl Scope {
    /// Creates the folder and starts the helper. `what` becomes part of the log's name.
    pub fn new(what: &str) -> Scope {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // Short: socket paths below it must fit into 108 bytes. The last letter prevents that the
        // name of one scope is a prefix of another's.
        let name = format!("wherry-{}-{}e", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new("/tmp").join(&name);
        fs::create_dir_all(&root)
            .unwrap_or_else(|e| panic!("{} cannot be created: {e}", root.display()));
        let mut reaper = Command::new("setsid")
            .args(["bash", "-c", include_str!("reap.sh")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("setsid cannot be run: {e}"));
        let pipe = reaper.stdin.as_mut().expect("stdin was piped");
        writeln!(pipe, "{}\n{name}", root.display()).expect("the reaper reads its input");
        mount_state(&root.join(STATE));
        let log = logs_dir().join(format!("{what}-{name}.log"));
        Scope { root, name, log, reaper }
    }

    /// Makes a network namespace with the name of the scope, and returns the name. It goes with the
    /// scope.
    pub(crate) fn add_network_namespace(&self) -> String {
        let ip = |words: &[&str]| {
            let mut command = Command::new("ip");
            command.args(words);
            call(command, None).success();
        };
        ip(&["netns", "add", self.name()]);
        ip(&["-netns", self.name(), "link", "set", "lo", "up"]);
        self.name().to_owned()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of files that need not survive a reboot: in memory.
    pub fn state(&self) -> PathBuf {
        self.root.join(STATE)
    }

    /// A unique name for objects outside of the folder: cgroup, network namespace, containerd
    /// namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the log for one more daemon process. The log survives the folder.
    pub fn log(&self) -> File {
        File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap_or_else(|e| panic!("{} cannot be opened: {e}", self.log.display()))
    }

    /// The path of the log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Includes the log of this scope in the message of a failing test on this thread.
    pub fn mark_used(&self) {
        USED.with_borrow_mut(|used| {
            if !used.contains(&self.log) {
                used.push(self.log.clone());
            }
        });
        show_logs_on_panic();
    }
}

/// The folder's name in the scope's.
const STATE: &str = "state";

/// Creates a folder in memory, as `/run` is on an ordinary machine.
fn mount_state(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("{} cannot be created: {e}", path.display()));
    let mount = ["-t", "tmpfs", "-o", "mode=711,nosuid,nodev", "tmpfs"];
    let status = Command::new("mount").args(mount).arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "no tmpfs at {}", path.display());
}

impl Drop for Scope {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // It ends when its input is closed; its status does not matter.
        let _ = self.reaper.wait();
    }
}

thread_local! {
    /// Logs of the daemons that the test on this thread has used.
    static USED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// Logs survive their daemon, so that a failure can be investigated; they are removed after a day.
fn logs_dir() -> PathBuf {
    static SWEPT: Once = Once::new();
    let dir = PathBuf::from("/tmp/wherry-logs");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{} cannot be created: {e}", dir.display()));
    SWEPT.call_once(|| {
        let old = |file: &fs::DirEntry| {
            let changed = file.metadata().and_then(|meta| meta.modified()).ok();
            changed.and_then(|at| at.elapsed().ok()).is_some_and(|age| age.as_secs() > 24 * 3600)
        };
        for file in fs::read_dir(&dir).into_iter().flatten().flatten().filter(old) {
            // Another test may have removed it first.
            let _ = fs::remove_file(file.path());
        }
    });
    dir
}

/// Appends the end of the daemons' logs to the message of a failing test.
fn show_logs_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            usual(info);
            USED.with_borrow(|used| {
                for log in used {
                    let text = fs::read_to_string(log).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let end =
                        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
                    eprintln!("--- daemon's log {}, its end:\n{end}\n---", log.display());
                }
            });
        }));
    });
}
