//! A connection to a D-Bus socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::TryFromIntError;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{self, Answer, FIXED};

const SYSTEMD: &str = "org.freedesktop.systemd1";
/// systemd answers in milliseconds; while it reloads its units, in seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the bus refuses root: {0}")]
    Refused(String),
    #[error("an answer that is not understood")]
    Malformed,
    #[error("the call is too long for D-Bus: {0}")]
    TooLong(#[from] TryFromIntError),
    #[error("{name}: {text}")]
    Error { name: String, text: String },
}

/// An authenticated connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// On the bus a message needs a destination; on systemd's own socket it needs none.
    is_bus: bool,
}

impl Bus {
    /// Connects and authenticates by user id.
    pub(super) fn connect(socket: &Path, is_bus: bool) -> Result<Bus, Fault> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut bus = Bus { stream: BufReader::new(stream), serial: 0, is_bus };
        // The user id in decimal digits, each digit's ASCII code in hexadecimal.
        let uid: String =
            nix::unistd::getuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.stream.get_mut().write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = String::new();
        bus.stream.read_line(&mut line)?;
        if !line.starts_with("OK ") {
            return Err(Fault::Refused(line.trim().to_owned()));
        }
        bus.stream.get_mut().write_all(b"BEGIN\r\n")?;
        if is_bus {
            let name = "org.freedesktop.DBus";
            bus.send(Some(name), "/org/freedesktop/DBus", name, "Hello", &[])?;
        }
        Ok(bus)
    }

    /// Calls a method of systemd and returns the values of its answer.
    pub(super) fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        args: &[&str],
    ) -> Result<Vec<String>, Fault> {
        let destination = self.is_bus.then_some(SYSTEMD);
        self.send(destination, path, interface, member, args)
    }

    fn send(
        &mut self,
        destination: Option<&str>,
        path: &str,
        interface: &str,
        member: &str,
        args: &[&str],
    ) -> Result<Vec<String>, Fault> {
        self.serial += 1;
        let message = wire::call(self.serial, destination, path, interface, member, args)?;
        self.stream.get_mut().write_all(&message)?;
        loop {
            let answer = self.receive()?;
            match (answer.to == self.serial, answer.error) {
                // A signal, of which the bus sends one after Hello.
                (false, _) => {}
                (true, None) => return Ok(answer.values),
                (true, Some(name)) => {
                    return Err(Fault::Error { name, text: answer.values.join(" ") });
                }
            }
        }
    }

    fn receive(&mut self) -> Result<Answer, Fault> {
        let mut fixed = [0; FIXED];
        self.stream.read_exact(&mut fixed)?;
        let rest = wire::rest(&fixed).ok_or(Fault::Malformed)?;
        let mut message = fixed.to_vec();
        message.resize(FIXED + rest, 0);
        self.stream.read_exact(message.get_mut(FIXED..).ok_or(Fault::Malformed)?)?;
        wire::answer(&message).ok_or(Fault::Malformed)
    }
}
