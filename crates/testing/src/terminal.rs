//! A client in a terminal, as a person has it.

use crate::io::{Outcome, code_of, line_of, wait_child};
use crate::wait::{DEADLINE, wait_until};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a person does in a terminal: sees a text, and then types.
pub struct Typed<'a> {
    /// What is waited for; empty for nothing.
    pub after: &'a str,
    /// What is typed then.
    pub keys: &'a [u8],
}

/// Runs a client in a terminal, to its end. What the terminal shows is the outcome's standard output.
pub(crate) fn in_terminal(client: &Command, typed: &Typed<'_>) -> Outcome {
    let quote =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words: Vec<String> =
        std::iter::once(client.get_program()).chain(client.get_args()).map(quote).collect();
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    for (name, value) in client.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("script(1) runs");
    let (mut keys, mut screen) =
        (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let shown = Arc::new(Mutex::new(Vec::new()));
    let reader = {
        let shown = Arc::clone(&shown);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                shown.lock().expect("nobody panics").extend_from_slice(&buffer[..length]);
            }
        })
    };
    if !typed.after.is_empty() {
        wait_until(&format!("the terminal shows {:?}", typed.after), DEADLINE, || {
            let shown = shown.lock().expect("nobody panics");
            String::from_utf8_lossy(&shown).contains(typed.after)
        });
        keys.write_all(typed.keys).expect("script(1) reads");
    }
    let status = wait_child(&line_of(client), &mut child);
    // Open until the end: its end would be typed as the end of the file.
    drop(keys);
    reader.join().expect("nobody panics");
    let stdout = shown.lock().expect("nobody panics").clone();
    Outcome { code: code_of(status), stdout, stderr: Vec::new(), command: line_of(client) }
}
