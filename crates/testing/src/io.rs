//! Runs a client to its end and collects its output.

use crate::places::patience;
use crate::wait::wait_for;
use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// The time limit of one call of a client.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(300);

/// The outcome of a client's call: exit code and output, of the client and so of the container.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// The command line, for messages.
    pub command: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts that the exit code is 0, and returns standard output as text.
    #[track_caller]
    pub fn success(&self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.out()
    }

    /// Asserts that the exit code is not 0, and returns standard error as text.
    #[track_caller]
    pub fn failure(&self) -> String {
        assert_ne!(self.code, 0, "it should have failed: {self}");
        self.err()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if text.len() > 4000 {
                text.chars().take(4000).collect::<String>() + "…"
            } else {
                text.into_owned()
            }
        };
        writeln!(f, "`{}` ended with {}", self.command, self.code)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", text(&self.stdout), text(&self.stderr))
    }
}

/// Runs a command with the given standard input (`None`: empty) and collects its output.
pub fn call(command: Command, stdin: Option<&[u8]>) -> Outcome {
    call_within(command, stdin, CALL_DEADLINE)
}

/// Runs a command as [`call`] does, with another time limit.
pub fn call_within(mut command: Command, stdin: Option<&[u8]>, limit: Duration) -> Outcome {
    let line = line_of(&command);
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("`{line}` cannot be run: {e}"));
    let (mut out, mut err) =
        (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    thread::scope(|scope| {
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), stdin) {
            // The client may exit before it has read everything.
            scope.spawn(move || pipe.write_all(bytes));
        }
        let stdout = scope.spawn(move || read_all(&mut out));
        let stderr = scope.spawn(move || read_all(&mut err));
        let mut status = || child.try_wait().unwrap_or_else(|e| panic!("`{line}`: {e}"));
        let start = std::time::Instant::now();
        let ended = loop {
            match status() {
                Some(ended) => break Some(ended),
                None if start.elapsed() > limit * patience() => break None,
                None => thread::sleep(Duration::from_millis(3)),
            }
        };
        if ended.is_none() {
            // It may have ended since.
            let _ = child.kill();
        }
        let (stdout, stderr) =
            (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        let outcome =
            Outcome { code: ended.map_or(-1, code_of), stdout, stderr, command: line.clone() };
        assert!(ended.is_some(), "it did not end within {limit:?}: {outcome}");
        outcome
    })
}

/// A command line for messages.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Waits for a child with a deadline.
pub(crate) fn wait_child(what: &str, child: &mut std::process::Child) -> ExitStatus {
    wait_for(what, CALL_DEADLINE, || child.try_wait().unwrap_or_else(|e| panic!("{what}: {e}")))
}

pub(crate) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What could be read is part of the report of a failure.
    let _ = from.read_to_end(&mut bytes);
    bytes
}
