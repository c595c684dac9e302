//! The minimal client of a shim: calls of the Task API, and a receiver of events.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use wherry_bench::wire::{Frame, Message, REQUEST};

/// A connection to a shim, with one call at a time.
pub(crate) struct Client {
    connection: UnixStream,
    service: String,
    stream: u32,
}

impl Client {
    /// Connects to the address that `start` printed: a plain one, or containerd's
    /// `BootstrapParams`.
    pub(crate) fn connect(answer: &str) -> Client {
        let json: Option<serde_json::Value> = serde_json::from_str(answer).ok();
        let (address, version) = match &json {
            Some(json) => (
                json["address"].as_str().unwrap_or_default(),
                json["version"].as_u64().unwrap_or(2),
            ),
            None => (answer.trim(), 2),
        };
        let path = address.trim_start_matches("unix://");
        let connection = UnixStream::connect(path).unwrap_or_else(|e| panic!("{answer:?}: {e}"));
        Client { connection, service: format!("containerd.task.v{version}.Task"), stream: 1 }
    }

    /// Calls a method and waits for the answer.
    ///
    /// # Panics
    /// If the shim returns an error, or is gone.
    pub(crate) fn call(&mut self, method: &str, request: &Message) -> Vec<u8> {
        self.ask(method, request);
        let answer = Frame::read(&mut self.connection).unwrap_or_else(|e| panic!("{method}: {e}"));
        let answer = answer.unwrap_or_else(|| panic!("{method}: the shim is gone"));
        answer.answer().unwrap_or_else(|text| panic!("{method}: {text}")).to_vec()
    }

    /// Sends Shutdown, and waits until the shim has closed the connection; some shims do not answer
    /// it.
    pub(crate) fn shut_down(mut self, id: &str) {
        self.ask("Shutdown", &Message::new().text(1, id));
        while let Ok(Some(_)) = Frame::read(&mut self.connection) {}
    }

    fn ask(&mut self, method: &str, request: &Message) {
        let request = Frame::request(self.stream, &self.service, method, request);
        // The stream ids of a client are odd.
        self.stream += 2;
        request.write(&mut self.connection).unwrap_or_else(|e| panic!("{method}: {e}"));
    }
}

/// Accepts all events that arrive at a socket, as containerd would, until the program ends.
pub(crate) fn take_events(socket: &Path) {
    let listener =
        UnixListener::bind(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || answer_all(connection));
        }
    });
}

fn answer_all(mut connection: UnixStream) -> io::Result<()> {
    while let Some(frame) = Frame::read(&mut connection)? {
        if frame.kind == REQUEST {
            Frame::response(frame.stream, &Message::new()).write(&mut connection)?;
        }
    }
    Ok(())
}
