//! A client in a terminal from its start to its end, and what is typed meanwhile.

use crate::client::Client;
use crate::io::Outcome;
use std::process::Command;

/// What a person does in a terminal: sees a text, and then types.
pub struct Typed<'a> {
    /// What is waited for; empty for nothing.
    pub after: &'a str,
    /// What is typed then.
    pub keys: &'a [u8],
}

/// Runs a client in a terminal, to its end. What the terminal shows is the outcome's standard output.
pub(crate) fn in_terminal(client: &Command, typed: &Typed<'_>) -> Outcome {
    let mut client = Client::in_terminal(client);
    if !typed.after.is_empty() {
        client.wait_for(typed.after);
        client.say(typed.keys);
    }
    client.end()
}
