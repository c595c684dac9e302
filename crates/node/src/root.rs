//! The host's root filesystem, which a pod sees below another directory.
//!
//! A symbolic link on the host is relative to the host's root. The kernel would resolve it from the
//! root of this process, so this module resolves links itself.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use crate::error::NodeError;

/// The number of symbolic links that the kernel follows.
const LINKS_MAX: usize = 40;
/// systemd's default PATH for services.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directory at which the host's root filesystem is mounted.
#[derive(Debug, Clone)]
pub(crate) struct HostRoot(PathBuf);

impl HostRoot {
    /// The host's root filesystem is mounted at `path`.
    pub(crate) fn new(path: &Path) -> HostRoot {
        HostRoot(path.to_owned())
    }

    /// Whether it is the root of this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Converts a path of the host to one of this process, with all symbolic links resolved below
    /// the host's root.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, NodeError> {
        let mut rest: VecDeque<OsString> = components(path).collect();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            match fs::read_link(self.0.join(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(NodeError::Links(path.to_owned()));
                    }
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                // Not a link, or not there: the caller's own access reports the latter.
                Err(_) => done = next,
            }
        }
        Ok(self.0.join(done))
    }

    /// Whether a path of the host exists.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path.as_ref()).is_ok_and(|path| path.exists())
    }

    /// Converts a path that [`HostRoot::resolve`] returned back to one of the host.
    pub(crate) fn host_path(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.0)
            .map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest))
    }

    /// Searches for a program in the directories of a service's PATH.
    pub(crate) fn find_program(&self, name: &str, search: &str) -> Option<PathBuf> {
        let candidates = search.split(':').map(|folder| Path::new(folder).join(name));
        candidates.into_iter().find(|path| self.exists(path))
    }

    /// A command that runs a program of the host, in the host's root. Its environment has only a
    /// service's PATH.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = if self.is_ours() {
            Command::new(program)
        } else {
            let mut command = Command::new("/proc/self/exe");
            command.arg("in-root").arg(&self.0).arg("--").arg(program);
            command
        };
        command.env_clear().env("PATH", SEARCH_PATH).current_dir("/");
        command
    }

    /// Runs a shell command on the host to its end; it must succeed. Processes that it starts
    /// belong to the host: they are not in the namespaces of this process.
    pub(crate) fn shell(&self, script: &str) -> Result<(), NodeError> {
        let mut command = if self.is_ours() {
            self.command("/bin/sh")
        } else {
            let mut command = Command::new("/proc/self/exe");
            command.arg("in-host").arg(&self.0).args(["--", "/bin/sh"]);
            command.env_clear().env("PATH", SEARCH_PATH);
            command
        };
        command.args(["-c", script]);
        finish(command, script.to_owned()).map(drop)
    }

    /// Runs a program of the host to its end; it must succeed.
    pub(crate) fn output(&self, program: &Path, args: &[&str]) -> Result<Output, NodeError> {
        let mut command = self.command(program);
        command.args(args);
        finish(command, format!("{} {}", program.display(), args.join(" ")))
    }
}

fn finish(mut command: Command, line: String) -> Result<Output, NodeError> {
    match command.output() {
        Err(e) => Err(NodeError::Program { program: line, reason: e.to_string() }),
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let reason = if text.is_empty() { output.status.to_string() } else { text };
            Err(NodeError::Program { program: line, reason })
        }
    }
}

fn components(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// The namespaces of a daemon on the host. The mount namespace is last: until then `/proc` is that
/// of this process.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "uts", "net", "pid", "mnt"];

/// The hidden command `in-host`: enters the namespaces of the host's first process and runs a
/// program there to its end. The program is a child, because a process cannot change its own pid
/// namespace.
pub(crate) fn run_in_namespaces(root: &Path, program: &[String]) -> Result<ExitCode, NodeError> {
    let open = |name: &&str| {
        let path = root.join("proc/1/ns").join(name);
        let file = fs::File::open(&path).map_err(NodeError::file("opening", &path))?;
        Ok((path, file))
    };
    let namespaces = NAMESPACES.iter().map(open).collect::<Result<Vec<_>, NodeError>>()?;
    for (path, file) in namespaces {
        nix::sched::setns(file, nix::sched::CloneFlags::empty())
            .map_err(|e| NodeError::file("entering the namespace", path)(e.into()))?;
    }
    let Some((program, args)) = program.split_first() else { return Ok(ExitCode::FAILURE) };
    let status = Command::new(program).args(args).current_dir("/").status();
    let status = status
        .map_err(|e| NodeError::Program { program: program.clone(), reason: e.to_string() })?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The hidden command `in-root`: changes the root directory and executes a program. It is a
/// separate process, because a root directory cannot be changed back.
pub(crate) fn exec_in(root: &Path, program: &[String]) -> Result<ExitCode, NodeError> {
    nix::unistd::chroot(root)
        .map_err(std::io::Error::from)
        .and_then(|()| std::env::set_current_dir("/"))
        .map_err(NodeError::file("changing the root directory", root))?;
    let Some((program, args)) = program.split_first() else { return Ok(ExitCode::FAILURE) };
    let error = Command::new(program).args(args).exec();
    Err(NodeError::Program { program: program.clone(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_the_host_stay_below_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        fs::create_dir_all(dir.path().join("run/containerd")).unwrap();
        fs::create_dir_all(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../../../etc", dir.path().join("var/up")).unwrap();
        let resolved = root.resolve(Path::new("/var/run/containerd/x.sock")).unwrap();
        assert_eq!(resolved, dir.path().join("run/containerd/x.sock"));
        assert_eq!(root.host_path(&resolved), Path::new("/run/containerd/x.sock"));
        assert_eq!(
            root.resolve(Path::new("/var/up/passwd")).unwrap(),
            dir.path().join("etc/passwd")
        );
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(HostRoot::new(dir.path()).resolve(Path::new("/loop")).is_err());
    }

    #[test]
    fn a_failing_program_is_reported_with_its_text() {
        let root = HostRoot::new(Path::new("/"));
        let error =
            root.output(Path::new("/bin/sh"), &["-c", "echo wrong >&2; exit 3"]).unwrap_err();
        assert_eq!(error.to_string(), "`/bin/sh -c echo wrong >&2; exit 3` failed: wrong");
    }
}
