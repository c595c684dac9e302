//! Processes, as `/proc` lists them.

use std::fs;
use std::path::{Path, PathBuf};

/// A process, as `/proc` describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    /// The command line, arguments separated by spaces.
    pub command: String,
    /// The environment, one `NAME=value` per line.
    pub environment: String,
    /// The working directory.
    pub cwd: PathBuf,
}

/// All processes of this machine except kernel threads and zombies.
pub fn processes() -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc is there").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .collect()
}

/// The managers with this containerd's address in their command line.
pub fn managers(address: &Path) -> Vec<Process> {
    let address = address.display().to_string();
    let serves = |process: &Process| {
        let words: Vec<&str> = process.command.split(' ').collect();
        process.program().starts_with("containerd-shim-")
            && words.last() == Some(&"manager")
            && words.contains(&&*address)
    };
    processes().into_iter().filter(serves).collect()
}

impl Process {
    /// The process with this pid; none for a kernel thread, a zombie or an unused pid.
    pub fn of(pid: i32) -> Option<Process> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let text = |name: &str, end: &str| {
            let bytes = fs::read(dir.join(name)).ok()?;
            Some(String::from_utf8_lossy(&bytes).replace('\0', end))
        };
        let command = text("cmdline", " ")?.trim_end().to_owned();
        if command.is_empty() {
            return None;
        }
        let environment = text("environ", "\n").unwrap_or_default();
        let cwd = fs::read_link(dir.join("cwd")).unwrap_or_default();
        Some(Process { pid, command, environment, cwd })
    }

    /// The name of its program, without the folder.
    pub fn program(&self) -> &str {
        let path = self.command.split(' ').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Its parent; none if it has ended.
    pub fn parent(&self) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name in parentheses may contain spaces.
        let fields = stat.rsplit(')').next()?;
        Process::of(fields.split_whitespace().nth(1)?.parse().ok()?)
    }

    /// Whether it has a file open in `folder`.
    pub fn has_open_in(&self, folder: &Path) -> bool {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file.starts_with(folder))
    }

    /// Whether it belongs to the scope in `root`: it names the folder, works in it, has a file of
    /// it open, or is a guest whose root filesystem comes from it.
    pub(crate) fn belongs_to(&self, root: &Path) -> bool {
        let path = root.to_string_lossy();
        self.command.contains(&*path)
            || self.environment.contains(&*path)
            || self.cwd.starts_with(root)
            || self.has_open_in(root)
            || self.is_guest_of(root)
    }

    fn is_guest_of(&self, root: &Path) -> bool {
        let mounts =
            fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap_or_default();
        let from = format!("{}/", root.display());
        mounts.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&from))
    }
}
