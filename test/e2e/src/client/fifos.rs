//! The pipes of one process, as a client of containerd creates them.

use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The client's ends of a process's streams. Dropping them removes the pipes.
pub struct Fifos {
    dir: PathBuf,
    stdin: Option<File>,
    stdout: Option<File>,
}

/// The paths of the streams, for a request; empty for none.
#[derive(Clone, Default)]
pub struct Paths {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Fifos {
    /// Creates the pipes in a new folder, and opens the client's ends.
    pub fn new(dir: PathBuf) -> Fifos {
        let mut fifos = Fifos::unopened(dir);
        fifos.stdin = Some(open(&fifos.dir.join("stdin"), true));
        fifos.stdout = Some(open(&fifos.dir.join("stdout"), false));
        fifos
    }

    /// Creates the pipes without opening them, as a busy client does.
    pub fn unopened(dir: PathBuf) -> Fifos {
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for name in ["stdin", "stdout", "stderr"] {
            let path = dir.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        Fifos { dir, stdin: None, stdout: None }
    }

    /// The paths of the streams.
    pub fn paths(&self) -> Paths {
        let path = |name| self.dir.join(name).display().to_string();
        Paths { stdin: path("stdin"), stdout: path("stdout"), stderr: path("stderr") }
    }

    /// Writes to standard input without blocking, and returns the number of bytes written.
    pub fn say(&mut self, bytes: &[u8]) -> usize {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        let mut said = 0;
        while said < bytes.len() {
            match stdin.write(&bytes[said..]) {
                Ok(written) => said += written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => panic!("{}: {e}", self.dir.display()),
            }
        }
        said
    }

    /// Closes the client's end of standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// The unread content of standard output.
    pub fn output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // The bytes that were read before the pipe ran empty are kept.
        let _ = self.stdout.as_mut().expect("standard output is open").read_to_end(&mut bytes);
        bytes
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // A leftover in the temporary folder does no harm.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open(path: &Path, write: bool) -> File {
    // Standard input is opened for reading and writing: without a reader, a pipe cannot be opened
    // for writing alone.
    let mut options = File::options();
    options.read(true).write(write).custom_flags(nix::libc::O_NONBLOCK);
    options.open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
