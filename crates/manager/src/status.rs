//! `status`: lists the managers of this machine, of all engines, containerds and namespaces.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::timeout;
use wherry_shim::group::CONTROL_SOCKETS;
use wherry_task::Census;

use crate::control::STATUS;
use crate::error::{AskError, Error, Result};

/// How long a manager may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, bytes: paths and numbers.
const ANSWER_MAX: usize = 1 << 16;

/// The status of a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) runtime: String,
    pub(crate) namespace: String,
    /// containerd's socket.
    pub(crate) address: String,
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) up_seconds: u64,
    pub(crate) containers: Containers,
    pub(crate) unsent_events: usize,
    pub(crate) spare_hosts: usize,
    /// The setting, or why it has no effect.
    pub(crate) metrics: String,
    pub(crate) socket: PathBuf,
    pub(crate) control_socket: PathBuf,
}

/// The number of containers in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Containers {
    creating: usize,
    created: usize,
    running: usize,
    paused: usize,
    stopped: usize,
}

impl From<Census> for Containers {
    fn from(census: Census) -> Containers {
        let Census { creating, created, running, paused, stopped } = census;
        Containers { creating, created, running, paused, stopped }
    }
}

impl From<Containers> for Census {
    fn from(containers: Containers) -> Census {
        let Containers { creating, created, running, paused, stopped } = containers;
        Census { creating, created, running, paused, stopped }
    }
}

/// A manager that does not answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Silent {
    control_socket: PathBuf,
    error: String,
}

/// Prints the status of all managers, as a table or as JSON. Returns whether all have answered.
///
/// # Errors
/// If the sockets cannot be listed, or nothing can be printed.
pub(crate) fn status(json: bool) -> Result<bool> {
    let sockets = sockets(Path::new(CONTROL_SOCKETS))?;
    let (mut managers, silent) = ask_all(&sockets)?;
    let order = |one: &Status| (one.namespace.clone(), one.runtime.clone(), one.address.clone());
    managers.sort_by_key(order);
    let text = if json { encode(&managers, &silent)? } else { table(&managers, &silent) };
    io::stdout().write_all(text.as_bytes()).map_err(Error::Print)?;
    Ok(silent.is_empty())
}

/// The control sockets. The directory exists once a manager has been started.
fn sockets(directory: &Path) -> Result<Vec<PathBuf>> {
    let error = |source| Error::List { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(error)?.path();
        // Beside the sockets are the variables of units.
        if path.extension().is_none() {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn ask_all(sockets: &[PathBuf]) -> Result<(Vec<Status>, Vec<Silent>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let (mut managers, mut silent) = (Vec::new(), Vec::new());
    for socket in sockets {
        let asked = runtime.block_on(async { timeout(ANSWER_TIMEOUT, ask(socket)).await });
        match asked.unwrap_or(Err(AskError::Timeout(ANSWER_TIMEOUT))) {
            Ok(status) => managers.push(status),
            // A manager that was killed leaves its socket, and the next one replaces it.
            Err(AskError::Connect(error))
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
            Err(error) => {
                silent.push(Silent { control_socket: socket.clone(), error: error.to_string() });
            }
        }
    }
    Ok((managers, silent))
}

async fn ask(socket: &Path) -> std::result::Result<Status, AskError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(String::new());
    *request.uri_mut() = hyper::Uri::from_static(STATUS);
    // An error of the connection is one of the request, too.
    let connection = tokio::spawn(connection);
    let bytes = body(sender.send_request(request).await?).await?;
    connection.abort();
    Ok(serde_json::from_slice(&bytes)?)
}

async fn body(response: Response<Incoming>) -> std::result::Result<Vec<u8>, AskError> {
    if response.status() != StatusCode::OK {
        return Err(AskError::Status(response.status()));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        let data = frame?.into_data().unwrap_or_else(|_| Bytes::new());
        if bytes.len() + data.len() > ANSWER_MAX {
            return Err(AskError::TooLong(ANSWER_MAX));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn encode(managers: &[Status], silent: &[Silent]) -> Result<String> {
    #[derive(Serialize)]
    struct All<'a> {
        managers: &'a [Status],
        silent: &'a [Silent],
    }
    let text = serde_json::to_string_pretty(&All { managers, silent }).map_err(Error::Encode)?;
    Ok(text + "\n")
}

fn table(managers: &[Status], silent: &[Silent]) -> String {
    let mut rows = vec![
        [
            "RUNTIME",
            "NAMESPACE",
            "PID",
            "VERSION",
            "UP",
            "CONTAINERS",
            "UNSENT EVENTS",
            "METRICS",
            "CONTAINERD",
        ]
        .map(str::to_owned),
    ];
    rows.extend(managers.iter().map(|one| {
        [
            one.runtime.clone(),
            one.namespace.clone(),
            one.pid.to_string(),
            one.version.clone(),
            duration(one.up_seconds),
            Census::from(one.containers).to_string(),
            one.unsent_events.to_string(),
            one.metrics.clone(),
            one.address.clone(),
        ]
    }));
    let mut text = String::new();
    if managers.is_empty() {
        text += "no manager runs: the first container of a namespace starts one\n";
    } else {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        for row in &rows {
            let cells = row.iter().enumerate();
            let cells = cells.map(|(column, cell)| format!("{cell:<0$}", width(column)));
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text += "\n";
        }
    }
    for Silent { control_socket, error } in silent {
        text += &format!("{}: {error}\n", control_socket.display());
    }
    text
}

/// A duration in its two largest units: `3d 4h`, `12m 5s`, `7s`.
fn duration(seconds: u64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m")];
    let parts = parts.into_iter().chain([(seconds % 60, "s")]);
    let shown: Vec<String> = parts
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;

    fn one() -> Status {
        Status {
            runtime: "ed".into(),
            namespace: "default".into(),
            address: "/run/c.sock".into(),
            pid: 7,
            version: "1".into(),
            up_seconds: 90,
            containers: Containers { creating: 0, created: 0, running: 2, paused: 1, stopped: 0 },
            unsent_events: 0,
            spare_hosts: 2,
            metrics: "off".into(),
            socket: "/run/s".into(),
            control_socket: "/run/m".into(),
        }
    }

    #[test]
    fn a_person_sees_a_table_and_a_program_json() {
        let silent = [Silent { control_socket: "/run/x".into(), error: "no answer".into() }];
        let expected = "\
RUNTIME  NAMESPACE  PID  VERSION  UP      CONTAINERS           UNSENT EVENTS  METRICS  CONTAINERD
ed       default    7    1        1m 30s  2 running, 1 paused  0              off      /run/c.sock
/run/x: no answer
";
        assert_eq!(table(&[one()], &silent), expected);
        let none = "no manager runs: the first container of a namespace starts one\n";
        assert_eq!(table(&[], &[]), none);
        let json: serde_json::Value =
            serde_json::from_str(&encode(&[one()], &silent).unwrap()).unwrap();
        assert_eq!(json["managers"][0]["containers"]["running"], 2);
        assert_eq!(json["managers"][0]["upSeconds"], 90);
        assert_eq!(json["silent"][0]["controlSocket"], "/run/x");
    }

    #[test]
    fn a_duration_has_two_units_at_most() {
        let texts = [0, 59, 60, 3661, 90_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m 0s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn a_dead_socket_is_not_a_manager_and_another_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        drop(UnixListener::bind(path("dead")).unwrap());
        std::fs::write(path("unit.env"), "").unwrap();
        let other = UnixListener::bind(path("other")).unwrap();
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"not HTTP\r\n\r\n").unwrap();
        });
        let found = sockets(directory.path()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let (managers, silent) = ask_all(&found).unwrap();
        answers.join().unwrap();
        assert!(managers.is_empty());
        let [Silent { control_socket, error }] = &silent[..] else { panic!("{silent:?}") };
        assert_eq!(*control_socket, path("other"));
        assert!(error.starts_with("invalid answer: "), "{error}");
        assert!(sockets(&path("missing")).unwrap().is_empty());
    }
}
