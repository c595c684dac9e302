//! A machine in the machine: network, mount and pid namespaces whose end is the end of one process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use wherry_testing::{DEADLINE, Outcome, call, wait_for};

/// Separate namespaces, held by their first process. When that process ends, the kernel kills
/// all others in the pid namespace, and mounts and network interfaces go with the last of them.
pub struct Machine {
    root: PathBuf,
    /// `unshare`, and the number of its child, the first process.
    holder: Child,
    init: i32,
    daemons: Mutex<Vec<(String, Daemon)>>,
}

struct Daemon {
    /// `nsenter`, and the number of its child, the daemon.
    entered: Child,
    pid: i32,
}

impl Machine {
    /// Starts the first process: `script` with the folder as its argument, which must print one
    /// line when it is ready. The folder's path is on the command line, by which a killed test
    /// run's helper finds the process.
    pub(crate) fn start(root: &Path, script: &str, arguments: &[&str]) -> Machine {
        fs::create_dir_all(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let log = fs::File::create(root.join("init.log")).expect("the folder is writable");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["--propagation", "private", "bash", "-c", script]).arg(root).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut holder = command.spawn().unwrap_or_else(|e| panic!("unshare cannot be run: {e}"));
        let mut line = String::new();
        let said = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line);
        let log = || fs::read_to_string(root.join("init.log")).unwrap_or_default();
        assert!(said.is_ok() && !line.is_empty(), "no machine in {}: {}", root.display(), log());
        let init = child_of(&mut holder);
        let init = init.unwrap_or_else(|| panic!("no machine in {}: {}", root.display(), log()));
        Machine { root: root.to_owned(), holder, init, daemons: Mutex::default() }
    }

    /// The folder of everything that it has.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The number of its first process, as seen from here.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// A command in its namespaces.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--net", "--pid", "--"]);
        command.args(words);
        command
    }

    /// Runs a shell script in its namespaces to its end.
    pub fn shell(&self, script: &str) -> Outcome {
        call(self.command(&["bash", "-c", script]), None)
    }

    /// Starts a daemon under a name, in a separate empty folder: the kubelet's garbage
    /// collection of logs removes what a pattern matches in its working directory. Its log is
    /// NAME.log in the machine's folder.
    pub(crate) fn spawn(&self, name: &str, path: &str, words: &[&str]) {
        let folder = self.root.join("cwd").join(name);
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let log = fs::File::options().create(true).append(true).open(self.log(name));
        let log = log.unwrap_or_else(|e| panic!("{name}'s log: {e}"));
        let folder = folder.display().to_string();
        let mut command = self.command(&["sh", "-c", r#"cd "$0" && exec "$@""#, &folder]);
        command.args(words).env("PATH", path).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        let mut entered = command.spawn().unwrap_or_else(|e| panic!("{name} cannot be run: {e}"));
        let pid = child_of(&mut entered);
        let pid = pid.unwrap_or_else(|| panic!("{name} ended:\n{}", end_of(&self.log(name))));
        let mut daemons = self.daemons.lock().unwrap_or_else(|p| p.into_inner());
        daemons.push((name.to_owned(), Daemon { entered, pid }));
    }

    /// Ends a daemon with a signal, and waits for its end.
    pub(crate) fn end(&self, name: &str, signal: nix::sys::signal::Signal) {
        let mut daemons = self.daemons.lock().unwrap_or_else(|p| p.into_inner());
        let index = daemons.iter().position(|(known, _)| known == name);
        let (_, mut daemon) =
            daemons.remove(index.unwrap_or_else(|| panic!("{name} does not run")));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.pid), signal)
            .unwrap_or_else(|e| panic!("{name} cannot be ended: {e}"));
        wait_for(&format!("{name}'s end"), DEADLINE, || {
            daemon.entered.try_wait().expect("our own child")
        });
    }

    /// Panics with the end of its log if a daemon has ended.
    pub(crate) fn assert_runs(&self, name: &str) {
        let mut daemons = self.daemons.lock().unwrap_or_else(|p| p.into_inner());
        for (_, daemon) in daemons.iter_mut().filter(|(known, _)| known == name) {
            if let Ok(Some(status)) = daemon.entered.try_wait() {
                panic!("{name} ended with {status}:\n{}", end_of(&self.log(name)));
            }
        }
    }

    /// Does something with its network: a socket that is made there stays there.
    pub fn in_network<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let init = self.init;
        let thread = std::thread::spawn(move || {
            let namespace = fs::File::open(format!("/proc/{init}/ns/net")).expect("it runs");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|e| panic!("the network namespace cannot be entered: {e}"));
            action()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Where a daemon's log is.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `unshare --kill-child` takes the first process along, and that one all others.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The last lines of a file.
pub(crate) fn end_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The number of a process's child; nothing if it has ended before it had one.
fn child_of(parent: &mut Child) -> Option<i32> {
    let path = format!("/proc/{0}/task/{0}/children", parent.id());
    wait_for("a process in the namespaces", DEADLINE, || {
        if !matches!(parent.try_wait(), Ok(None)) {
            return Some(None);
        }
        let children = fs::read_to_string(&path).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Some)
    })
}
