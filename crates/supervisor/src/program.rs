//! The executables that this process starts: the engine host and the compiler.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use wherry_protocol::{Failure, FailureKind};
use wherry_sys::readonly;

/// The path of this executable, which works even after the file was replaced.
const OWN: &str = "/proc/self/exe";

/// An executable of this project. It is executed from a read-only view, because a process can open
/// its own executable for writing.
///
/// Daemon, engine host and compiler must be of one version, because their protocol has no version.
/// So an executable is opened once, and that file is executed even after an upgrade has replaced
/// it: a container that runs during an upgrade can still be restarted and entered. The daemon takes
/// the new executables all at once, when it hands over to the new version of itself.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    opened: OnceLock<OwnedFd>,
}

impl Program {
    /// The executable at this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Program {
        Program { path, opened: OnceLock::new() }
    }

    /// Searches for the engine host `wherry-<engine>-host`, an engine without its compiler, beside
    /// this executable, in `../libexec/wherry` from there, and in PATH.
    ///
    /// # Errors
    /// If it is in none of these; the text names them.
    pub fn host(engine: &str) -> Result<Program, Failure> {
        let name = format!("wherry-{engine}-host");
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent);
        let mut directories: Vec<PathBuf> = Vec::new();
        directories.extend(beside.map(Path::to_owned));
        directories.extend(beside.and_then(Path::parent).map(|up| up.join("libexec/wherry")));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = directories
            .iter()
            .cloned()
            .chain(std::env::split_paths(&path))
            .map(|directory| directory.join(&name))
            .find(|candidate| candidate.is_file());
        found.map(Program::new).ok_or_else(|| {
            let directories: Vec<String> =
                directories.iter().map(|directory| directory.display().to_string()).collect();
            Failure::new(
                FailureKind::System,
                format!(
                    "cannot find the engine host {name}: searched in {} and PATH; install it beside the shim",
                    directories.join(", ")
                ),
            )
        })
    }

    /// The compiler `wherry-<engine>` beside this engine host.
    #[must_use]
    pub fn compiler(&self, engine: &str) -> Program {
        Program::new(self.path.with_file_name(format!("wherry-{engine}")))
    }

    /// This executable, for its other commands.
    ///
    /// # Errors
    /// If the kernel does not report its path.
    pub fn own() -> io::Result<Program> {
        let path = std::env::current_exe()?;
        let own = open_path(Path::new(OWN))?;
        // It may run from a view that is unmounted already, and then has no path.
        if fstatvfs(&own)?.flags().contains(FsFlags::ST_RDONLY) {
            return Ok(Program { path, opened: own.into() });
        }
        Ok(Program::new(path))
    }

    /// The path, for messages: another file may be there now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the executable on the first call: from then on this file is executed.
    ///
    /// # Errors
    /// If it does not exist, or its view cannot be mounted.
    pub fn pin(&self) -> io::Result<()> {
        self.descriptor().map(|_| ())
    }

    /// Whether the file that is executed is still the one at the path.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let Some(opened) = self.opened.get() else { return true };
        let identity = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        let opened = fstat(opened).map(identity);
        stat(&self.path).map(identity).is_ok_and(|found| opened == Ok(found))
    }

    /// Returns a command that executes this file.
    pub(crate) fn command(&self) -> io::Result<Command> {
        use std::os::unix::process::CommandExt;
        // The kernel resolves the path before it closes the descriptor.
        let path = format!("/proc/self/fd/{}", self.descriptor()?.as_raw_fd());
        let mut command = Command::new(path);
        command.arg0(&self.path);
        Ok(command)
    }

    fn descriptor(&self) -> io::Result<&OwnedFd> {
        if let Some(descriptor) = self.opened.get() {
            return Ok(descriptor);
        }
        // Users other than root cannot mount a view, nor write to the executable, which is root's.
        let opened = if nix::unistd::geteuid().is_root() {
            open_path(&readonly::view(&self.path)?)?
        } else {
            open_path(&self.path)?
        };
        Ok(self.opened.get_or_init(|| opened))
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    /// Copies a program that prints its arguments. Another process does it: a descriptor of this
    /// one for writing would be inherited by what other tests fork, and until their exec the file
    /// could not be executed (ETXTBSY).
    fn install(program: &str, path: &Path) {
        let new = path.with_extension("new");
        let status = Command::new("cp").arg(program).arg(&new).status().unwrap();
        assert!(status.success());
        fs::rename(new, path).unwrap();
    }

    fn output(program: &Program) -> String {
        let output = program.command().unwrap().arg("words").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_pinned_program_is_executed_after_it_was_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        install("/bin/echo", &path);
        let (pinned, late) = (Program::new(path.clone()), Program::new(path.clone()));
        assert!(late.is_current(), "it was not opened yet");
        pinned.pin().unwrap();
        assert!(pinned.is_current());
        install("/bin/false", &path);
        assert!(!pinned.is_current());
        assert_eq!(output(&pinned), "words\n");
        assert_eq!(output(&late), "");
        fs::remove_file(&path).unwrap();
        assert_eq!(output(&pinned), "words\n");
        assert_eq!(Program::new(path).pin().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_compiler_is_beside_its_host() {
        let host = Program::new("/opt/wherry-e-host".into());
        assert_eq!(host.compiler("e").path(), Path::new("/opt/wherry-e"));
    }

    #[test]
    fn a_missing_host_names_the_folders_that_were_searched() {
        let failure = Program::host("none-such").unwrap_err();
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap().display().to_string();
        let text = failure.message;
        assert!(text.starts_with("cannot find the engine host wherry-none-such-host: "), "{text}");
        assert!(text.contains(&folder) && text.contains("libexec/wherry and PATH"), "{text}");
    }
}
