//! Runs a client in a terminal to its end, with typed input.

use crate::client::Client;
use crate::io::Outcome;
use std::process::Command;

/// One step of a dialogue in a terminal: text to wait for, and input to type.
pub struct Typed<'a> {
    /// The text to wait for; empty for none.
    pub after: &'a str,
    /// The input to type then.
    pub keys: &'a [u8],
}

/// Runs a client in a terminal, to its end. The content of the terminal is the outcome's standard
/// output.
pub(crate) fn in_terminal(client: &Command, typed: &Typed<'_>) -> Outcome {
    let mut client = Client::in_terminal(client);
    if !typed.after.is_empty() {
        client.wait_for(typed.after);
        client.say(typed.keys);
    }
    client.end()
}
