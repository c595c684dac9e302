//! A client of the API server: JSON over `kubectl proxy`'s socket, at a hundredth of what a call of
//! kubectl takes.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The client.
#[derive(Clone)]
pub struct Api {
    socket: PathBuf,
}

/// What the API server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code of HTTP.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Api {
    pub(crate) fn new(socket: PathBuf) -> Api {
        Api { socket }
    }

    /// A request whose answer may be that something is missing or refused.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        // The proxy's connection to the API server may break under load: try again.
        for _ in 0..5 {
            match self.try_request(method, path, body) {
                Some(answer) if !matches!(answer.status, 429 | 502..=504) => return answer,
                _ => std::thread::sleep(std::time::Duration::from_millis(200)),
            }
        }
        let answer = self.try_request(method, path, body);
        answer.unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// The object at a path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.must("GET", path, None)
    }

    /// The object at a path, if it is there.
    pub fn find(&self, path: &str) -> Option<Value> {
        let answer = self.request("GET", path, None);
        (answer.status == 200).then(|| answer.json())
    }

    /// Makes an object below a path.
    #[track_caller]
    pub fn create(&self, path: &str, object: &Value) -> Value {
        self.must("POST", path, Some(object))
    }

    /// Changes some fields of an object.
    #[track_caller]
    pub fn patch(&self, path: &str, fields: &Value) -> Value {
        self.must("PATCH", path, Some(fields))
    }

    /// Deletes an object, if it is there. Its end may come later.
    pub fn delete(&self, path: &str) {
        let answer = self.request("DELETE", path, None);
        assert!(matches!(answer.status, 200..=202 | 404), "DELETE {path}: {}", answer.text());
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.request(method, path, body);
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// One request; nothing if the proxy does not answer.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        // HTTP 1.0: the answer ends with the connection, and is not sent in chunks.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: answer[end + 4..].to_vec() })
    }
}
