//! A client process that runs beside the test: the test reads its output, writes its input and ends
//! it.

use crate::io::{Outcome, code_of, line_of, wait_child};
use crate::processes::Process;
use crate::wait::{DEADLINE, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// The size of a client's terminal, as `stty size` prints it: rows and columns.
pub const TERMINAL_SIZE: &str = "33 77";

/// A running client. Dropping it kills the process.
pub struct Client {
    child: Child,
    keys: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    line: String,
}

/// The output of a client on one stream, and the thread that collects it.
struct Stream(Arc<Mutex<Vec<u8>>>, Option<JoinHandle<()>>);

impl Client {
    /// Starts a client whose streams are pipes.
    pub fn start(mut command: Command) -> Client {
        let line = line_of(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("`{line}` cannot be run: {e}"));
        let keys = child.stdin.take();
        let stdout = Stream::of(child.stdout.take().expect("piped"));
        let stderr = Stream::of(child.stderr.take().expect("piped"));
        Client { child, keys, stdout, stderr, line }
    }

    /// Starts a client in a terminal: the content of the terminal is its standard output.
    pub fn in_terminal(client: &Command) -> Client {
        let quote =
            |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let words: Vec<String> =
            std::iter::once(client.get_program()).chain(client.get_args()).map(quote).collect();
        let (rows, columns) = TERMINAL_SIZE.split_once(' ').expect("two numbers");
        let line = format!("stty rows {rows} cols {columns}; exec {}", words.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in client.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut started = Client::start(command);
        started.line = line_of(client);
        started
    }

    /// Its standard output so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }

    /// Waits until its standard output contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until its standard output contains `text` so many times. A terminal echoes typed text
    /// once by itself.
    #[track_caller]
    pub fn wait_for_times(&self, text: &str, times: usize) {
        wait_until(&format!("{text:?} from `{}`", self.line), DEADLINE, || {
            self.shown().matches(text).count() >= times
        });
    }

    /// Types into its terminal, or writes to its standard input, which stays open.
    pub fn say(&mut self, bytes: &[u8]) {
        let keys = self.keys.as_mut().expect("its standard input is open");
        keys.write_all(bytes).unwrap_or_else(|e| panic!("`{}` does not read: {e}", self.line));
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        drop(self.keys.take());
    }

    /// Sends SIGTERM to the client itself.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM)
            .unwrap_or_else(|e| panic!("`{}`: {e}", self.line));
    }

    /// Waits for its end. Its input stays open until then: in a terminal, the end of the input
    /// would be typed.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let status = wait_child(&self.line, &mut self.child);
        drop(self.keys.take());
        Outcome {
            code: code_of(status),
            stdout: self.stdout.read_to_end(),
            stderr: self.stderr.read_to_end(),
            command: self.line.clone(),
        }
    }

    /// Kills it with SIGKILL, or closes its terminal, and waits until all its processes have ended:
    /// a remaining one would read the output that is meant for the next client.
    #[track_caller]
    pub fn kill(self) {
        let pid = self.child.id();
        let below = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let below = below.unwrap_or_else(|e| panic!("`{}`: {e}", self.line));
        let line = self.line.clone();
        drop(self);
        for pid in below.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            wait_until(&format!("the end of `{line}`"), DEADLINE, || Process::of(pid).is_none());
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The client may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    fn of(mut pipe: impl Read + Send + 'static) -> Stream {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                into.lock().expect("no thread panics").extend_from_slice(&buffer[..length]);
            }
        });
        Stream(bytes, Some(reader))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no thread panics")
    }

    /// The whole output, after the last writer has closed the stream.
    fn read_to_end(&mut self) -> Vec<u8> {
        if let Some(reader) = self.1.take() {
            reader.join().expect("no thread panics");
        }
        self.bytes().clone()
    }
}
