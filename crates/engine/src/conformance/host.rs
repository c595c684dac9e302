//! Runs guests in an engine's executable.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The limit of one case, far above its duration on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An engine's executable, and a folder for one test's files.
pub struct Host {
    exe: PathBuf,
    folder: TempDir,
}

/// A guest to run.
pub struct Guest<'a> {
    host: &'a Host,
    options: Vec<OsString>,
    file: PathBuf,
    function: String,
    args: Vec<String>,
}

/// The result of a guest.
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A running guest. Killed when dropped.
pub struct Running {
    child: Child,
}

impl Host {
    pub fn new(exe: impl AsRef<Path>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        Self { exe: exe.as_ref().to_owned(), folder }
    }

    /// Makes a folder of this name below the test's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).expect("a folder for the guest");
        path
    }

    /// A module whose fields, in the text format, follow [the prelude](super::wat::PRELUDE).
    pub fn guest(&self, fields: &str) -> Guest<'_> {
        self.file("guest.wasm", &super::wat::module(fields))
    }

    /// A file of this name and content.
    pub fn file(&self, name: &str, content: &[u8]) -> Guest<'_> {
        let file = self.folder.path().join(name);
        fs::write(&file, content).expect("the guest's file");
        self.path(file)
    }

    /// A file that may be missing.
    pub fn path(&self, file: PathBuf) -> Guest<'_> {
        Guest { host: self, options: Vec::new(), file, function: String::new(), args: Vec::new() }
    }

    /// Returns the output of a command of the executable, which must succeed.
    pub fn says(&self, command: &str) -> String {
        let output = Command::new(&self.exe).arg(command).output().expect("the executable runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Returns the name of the executable.
    pub fn name(&self) -> String {
        self.exe.file_name().expect("an executable has a name").to_string_lossy().into_owned()
    }
}

impl Guest<'_> {
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn env(mut self, variable: &str) -> Self {
        self.options.extend(["--env".into(), variable.into()]);
        self
    }

    pub fn dir(mut self, host: &Path, guest: &str) -> Self {
        let mut mapping = host.as_os_str().to_owned();
        mapping.push("::");
        mapping.push(guest);
        self.options.extend(["--dir".into(), mapping]);
        self
    }

    pub fn cwd(mut self, cwd: &str) -> Self {
        self.options.extend(["--cwd".into(), cwd.into()]);
        self
    }

    pub fn net(mut self) -> Self {
        self.options.push("--net".into());
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn function(mut self, name: &str) -> Self {
        self.function = format!("#{name}");
        self
    }

    /// Starts the guest with pipes for its streams. The process's environment has one variable,
    /// which no guest may ever see.
    pub fn spawn(&self) -> Running {
        let mut target = self.file.clone().into_os_string();
        target.push(&self.function);
        let child = Command::new(&self.host.exe)
            .arg("run")
            .args(&self.options)
            .arg(target)
            .args(&self.args)
            .env("WHERRY_TEST_SECRET", "of the host")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the engine's executable");
        Running { child }
    }

    /// Runs the guest to its end without input.
    pub fn run(&self) -> Ended {
        self.run_with(b"")
    }

    /// Runs the guest to its end with this input.
    pub fn run_with(&self, input: &[u8]) -> Ended {
        let mut running = self.spawn();
        let mut stdin = running.child.stdin.take().expect("a pipe");
        let (stdout, stderr) = (running.stdout(), running.stderr());
        thread::scope(|scope| {
            // A guest need not read its input.
            scope.spawn(move || stdin.write_all(input).ok());
            let stdout = scope.spawn(move || read_all(stdout));
            let stderr = scope.spawn(move || read_all(stderr));
            let status = running.wait();
            let stderr = stderr.join().expect("its standard error");
            Ended {
                code: status.code().unwrap_or_else(|| {
                    panic!("killed: {status}: {}", String::from_utf8_lossy(&stderr))
                }),
                stdout: stdout.join().expect("its standard output"),
                stderr: String::from_utf8_lossy(&stderr).into_owned(),
            }
        })
    }

    /// Expects a refusal: exit code 1 and one line that names the file and contains
    /// all of `parts`.
    pub fn refused(&self, parts: &[&str]) {
        let ended = self.run();
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        let line = ended.stderr.strip_suffix('\n').expect("a whole line");
        assert!(!line.contains('\n'), "more than one line: {line}");
        let start = format!("{}: {}: ", self.host.name(), self.file.display());
        assert!(line.starts_with(&start), "{line:?} does not start with {start:?}");
        for part in parts {
            assert!(line.contains(part), "{line:?} does not contain {part:?}");
        }
        assert!(ended.stdout.is_empty(), "there is output");
    }
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("not yet taken")
    }

    pub fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("not yet taken")
    }

    /// Writes to the guest's standard input, which stays open.
    pub fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("a pipe").write_all(bytes).expect("a guest that reads");
    }

    /// Reads exactly these bytes from the guest's standard output.
    pub fn expect(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        self.child.stdout.as_mut().expect("a pipe").read_exact(&mut read).expect("output");
        assert_eq!(read, bytes);
    }

    /// Sends a signal by its name, without `SIG`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &command]).status().expect("a shell").success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_for(DEADLINE)
    }

    /// Waits for the end, but not longer than this.
    pub fn wait_for(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of this process") {
                return status;
            }
            if Instant::now() > end {
                self.child.kill().ok();
                panic!("the guest has not ended after {deadline:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    bytes
}
