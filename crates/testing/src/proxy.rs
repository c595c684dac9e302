//! A proxy in front of a registry, which misbehaves as a test asks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The headers, as they were sent.
    pub headers: Vec<String>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What the proxy does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Hands it on.
    Pass,
    /// Hands it on, and closes the connection after so many bytes of the answer.
    Cut(u64),
    /// Answers nothing, until the client closes the connection.
    Stall,
    /// Answers itself: a status, headers that each end with a line break, and a body.
    Answer(u16, String, String),
}

/// The proxy. Its threads live as long as the process.
pub struct Proxy {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Proxy {
    /// Starts one in front of `upstream`. `decide` gets each request, and the number of earlier
    /// requests for the same path.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub fn start(
        upstream: &str,
        decide: impl Fn(&Request, usize) -> Action + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, decide, upstream) =
            (Arc::clone(&requests), Arc::new(decide), upstream.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (log, decide, upstream) =
                    (Arc::clone(&log), Arc::clone(&decide), upstream.clone());
                // The error is that of a client that went away.
                thread::spawn(move || serve(&client, &upstream, &log, &*decide));
            }
        });
        Proxy { address, requests }
    }

    /// Its address, as the first part of an image's name.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }
}

/// Serves one request, with or without a body.
fn serve(
    client: &TcpStream,
    upstream: &str,
    log: &Mutex<Vec<Request>>,
    decide: &dyn Fn(&Request, usize) -> Action,
) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first().cloned().unwrap_or_default();
    words.truncate(words.rfind(' ').unwrap_or(0));
    let (method, path) = words.split_once(' ').unwrap_or_default();
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: lines.iter().skip(1).cloned().collect(),
    };
    let earlier = {
        let mut log = log.lock().unwrap_or_else(|p| p.into_inner());
        log.push(request.clone());
        log.iter().filter(|other| other.path == request.path).count() - 1
    };
    let mut writer = client;
    let limit = match decide(&request, earlier) {
        Action::Pass => u64::MAX,
        Action::Cut(bytes) => bytes,
        Action::Stall => return reader.read(&mut [0]).map(drop),
        Action::Answer(status, headers, body) => {
            let length = body.len();
            let body = if request.method == "HEAD" { "" } else { &body };
            return write!(
                writer,
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            );
        }
    };
    let mut server = TcpStream::connect(upstream)?;
    let mut head = format!("{}\r\n", lines.first().cloned().unwrap_or_default());
    for line in &request.headers {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head += &format!("{line}\r\n");
        }
    }
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    let length: u64 =
        request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    io::copy(&mut reader.by_ref().take(length), &mut server)?;
    io::copy(&mut server.take(limit), &mut writer)?;
    client.shutdown(Shutdown::Both)
}
